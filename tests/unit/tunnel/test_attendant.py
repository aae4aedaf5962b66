"""A command beside a job, seen from its stream."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import cast

import pytest

from dstack_agent.executor.port import Visit
from dstack_agent.servicers.exec import Attendant
from dstack_mesh.faults import Invalid
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_scheduler.errand import Outcome, Window
from support.eventually import eventually


class Nothing:
    """A command that has ended when it is looked at, and wrote one byte."""

    def __init__(self) -> None:
        (out, write_out), (err, write_err) = os.pipe(), os.pipe()
        self.outputs, ends = (out, err), (write_out, write_err)
        self.stdin = os.open(os.devnull, os.O_WRONLY)
        os.write(ends[0], b"x")
        for descriptor in ends:
            os.close(descriptor)

    def end_input(self) -> None:
        os.close(self.stdin)

    async def interrupt(self) -> None:
        """There is nobody."""

    async def resize(self, window: Window) -> None:
        """There is no terminal."""

    async def outcome(self) -> Outcome:
        return Outcome(3)

    def close(self) -> None:
        for descriptor in self.outputs:
            os.close(descriptor)


async def attended(
    told: list[pb.ExecResponse], gone: asyncio.Event, *requests: pb.ExecRequest
) -> None:
    async def write(response: pb.ExecResponse) -> None:
        told.append(response)

    async def said() -> AsyncIterator[pb.ExecRequest]:
        for request in requests:
            yield request
        await gone.wait()

    visit = Nothing()
    try:
        await Attendant(cast(Visit, visit), write).serve(said())
    finally:
        visit.close()


async def test_all_is_told_and_then_the_client_goes_first() -> None:
    told, gone = list[pb.ExecResponse](), asyncio.Event()
    serving = asyncio.create_task(attended(told, gone))
    async with asyncio.timeout(10):
        await asyncio.to_thread(eventually, lambda: told[-1:] and told[-1].HasField("ended"), 10)
        assert [one.frame.data for one in told if one.frame.data] == [b"x"]
        assert told[-1].ended.exit_code == 3
        await asyncio.sleep(0.1)
        assert not serving.done()
        gone.set()
        await serving


@pytest.mark.parametrize(
    "wrong",
    [
        pb.ExecRequest(begin=pb.Command()),
        pb.ExecRequest(frame=pb.Frame(connection=3, data=b"x")),
        pb.ExecRequest(frame=pb.Frame(connection=1, data=b"x")),
        pb.ExecRequest(frame=pb.Frame(connection=1, credit_bytes=1)),
        pb.ExecRequest(frame=pb.Frame(connection=0, credit_bytes=1)),
        pb.ExecRequest(window=pb.Window(rows=1 << 20)),
    ],
)
async def test_what_none_of_ours_says_is_refused(wrong: pb.ExecRequest) -> None:
    with pytest.raises(ExceptionGroup) as refused:
        await attended([], asyncio.Event(), wrong)
    assert refused.group_contains(Invalid)
