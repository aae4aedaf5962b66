"""Who carries connections to a job waits for no agent for ever."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from dstack_mesh.faults import Refused
from dstack_mesh.ids import RunId
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire.tunnel import Carriage


class SaysNothing:
    """A stream whose other end takes everything and never answers."""

    def __init__(self) -> None:
        self.written: list[pb.CarryRequest] = []

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        """It is never done."""

    async def write(self, request: pb.CarryRequest) -> None:
        self.written.append(request)


async def test_an_agent_that_never_says_that_it_listens_is_not_waited_for() -> None:
    call = SaysNothing()
    carriage = Carriage(cast(Any, call), JobKey(RunId("0" * 26), 0), "ws-1", made_seconds=0.1)
    socket = cast(Any, None)  # nothing is read of it or written to it
    with pytest.raises(Refused, match="is not reached"):
        async with asyncio.timeout(10):
            await carriage.carry(0, socket, socket)
    kinds = [one.frame.WhichOneof("kind") or one.WhichOneof("kind") for one in call.written]
    assert kinds == ["open", "broken"]  # so that it keeps none for us
