"""What reaches a caller when a servicer fails, over a real connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dstack_mesh.faults import ERRORS, Broken, Busy, Fault, MeshError, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.server import listen_local, make_server

Behaviour = Callable[[], Awaitable[None]]


class Scripted(rpc.RunServiceServicer):
    """List and Attach do what the test says."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self.ended = asyncio.Event()

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:
        await self._behave()
        return pb.ListResponse()

    async def Stop(self, request: pb.StopRequest, context: Any) -> pb.StopResponse:
        return pb.StopResponse()

    async def Drive(self, request: pb.DriveRequest, context: Any) -> pb.DriveResponse:
        return pb.DriveResponse()

    async def Remove(self, request: pb.RemoveRequest, context: Any) -> pb.RemoveResponse:
        return pb.RemoveResponse()

    async def Reload(self, request: pb.ReloadRequest, context: Any) -> pb.ReloadResponse:
        return pb.ReloadResponse()

    async def Tag(self, request: pb.TagRequest, context: Any) -> pb.TagResponse:
        return pb.TagResponse()

    async def Attach(
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: Any
    ) -> AsyncGenerator[pb.AttachResponse]:
        try:
            async for _ in request_iterator:
                yield pb.AttachResponse()
            await self._behave()
        finally:
            self.ended.set()


@asynccontextmanager
async def served(
    folder: Path, behave: Behaviour
) -> AsyncGenerator[tuple[rpc.RunServiceAsyncStub, Scripted]]:
    home = Home(folder)
    home.prepare()
    server, scripted, channels = make_server(), Scripted(behave), Channels(home)
    rpc.add_RunServiceServicer_to_server(scripted, server)
    listener = listen_local(server, home.agent_socket)
    await server.start()
    try:
        yield rpc.RunServiceStub(channels.to_local(home.agent_socket)), scripted
    finally:
        await channels.close()
        await server.stop(0)
        listener.close()


def raising(error: Exception) -> Behaviour:
    async def behave() -> None:
        raise error

    return behave


async def nothing() -> None:
    return None


async def two_tasks_one_of_which_fails() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(60))
        tasks.create_task(raising(Busy("It is in use.", code="gpu-busy"))())  # type: ignore[arg-type]


async def awaits_what_was_cancelled() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


async def call_list(stub: rpc.RunServiceAsyncStub) -> None:
    with translated("ws-2"):
        await stub.List(pb.ListRequest(), timeout=5)


async def call_attach(stub: rpc.RunServiceAsyncStub) -> None:
    with translated("ws-2"):
        call = stub.Attach(timeout=5)
        await call.write(pb.AttachRequest())
        await call.done_writing()
        assert [one async for one in call] == [pb.AttachResponse()]


@pytest.mark.parametrize("call", [call_list, call_attach])
@pytest.mark.parametrize("fault", list(Fault))
async def test_a_mesh_error_is_raised_again_at_the_caller(
    tmp_path: Path, fault: Fault, call: Callable[[rpc.RunServiceAsyncStub], Awaitable[None]]
) -> None:
    error = ERRORS[fault]("It broke.", "Seen: 42.", "Mend it.", "a-code")
    async with served(tmp_path, raising(error)) as (stub, _):
        with pytest.raises(MeshError) as arrived:
            await call(stub)
    assert type(arrived.value) is ERRORS[fault]
    assert (str(arrived.value), arrived.value.hint, arrived.value.code) == (
        "It broke. Seen: 42.",
        "Mend it.",
        "a-code",
    )


@pytest.mark.parametrize("call", [call_list, call_attach])
async def test_the_text_of_a_bug_stays_in_the_log(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    call: Callable[[rpc.RunServiceAsyncStub], Awaitable[None]],
) -> None:
    with caplog.at_level(logging.ERROR):
        async with served(tmp_path, raising(ValueError("password hunter2"))) as (stub, _):
            with pytest.raises(Broken) as arrived:
                await call(stub)
    assert "hunter2" not in str(arrived.value) + arrived.value.hint
    (record,) = caplog.records
    assert "hunter2" in caplog.text
    log_id = record.getMessage().rpartition("[")[2].rstrip("]")
    assert log_id in arrived.value.why


async def test_an_error_out_of_a_task_group_arrives_as_itself(tmp_path: Path) -> None:
    async with served(tmp_path, two_tasks_one_of_which_fails) as (stub, _):
        with pytest.raises(Busy) as arrived:
            await call_list(stub)
    assert arrived.value.code == "gpu-busy"


async def test_a_cancellation_inside_the_server_does_not_hang_the_caller(tmp_path: Path) -> None:
    async with served(tmp_path, awaits_what_was_cancelled) as (stub, _):
        async with asyncio.timeout(2):
            with pytest.raises(Unreachable):
                await call_list(stub)


async def test_a_caller_that_leaves_ends_the_servicer(tmp_path: Path) -> None:
    async with served(tmp_path, nothing) as (stub, scripted):
        call = stub.Attach(timeout=30)
        await call.write(pb.AttachRequest())
        assert await call.read() == pb.AttachResponse()
        call.cancel()
        async with asyncio.timeout(5):
            await scripted.ended.wait()


async def test_an_answer_of_no_server_is_unreachable_and_names_the_peer(tmp_path: Path) -> None:
    channels = Channels(Home(tmp_path))
    stub = rpc.RunServiceStub(channels.to_local(tmp_path / "nobody.sock"))
    with pytest.raises(Unreachable) as arrived:
        await call_list(stub)
    assert "ws-2" in arrived.value.what
    await channels.close()
