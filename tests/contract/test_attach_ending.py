"""Why an agent ended a stream reaches the reader, also while the reader is writing."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Busy
from dstack_mesh.home import Home
from dstack_mesh.ids import RunId
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.server import listen_local, make_server
from dstack_scheduler.agent_port import Attachment
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire.agent import GrpcAgent
from support.agent_process import UNKNOWN

KEY = JobKey(RunId("aaaaaaaaaaaaaaaa"), 0, 1)
ROUNDS = 100


class Full(rpc.RunServiceServicer):
    """An agent that has had enough after some requests."""

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:
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
        seen = 0
        async for _ in request_iterator:
            seen += 1
            if seen == 5:
                raise Busy("The agent is busy.")
            yield pb.AttachResponse()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[GrpcAgent]:
    home = Home(tmp_path / "home")
    home.prepare()
    server = make_server()
    rpc.add_RunServiceServicer_to_server(Full(), server)
    listen_local(server, home.agent_socket)
    await server.start()
    channels, store = Channels(home), ChunkStore(tmp_path / "store")
    try:
        yield GrpcAgent(channels.to_local(home.agent_socket), UNKNOWN, True, store)
    finally:
        await channels.close()
        await server.stop(None)
        store.close()


async def acknowledge_much(attachment: Attachment) -> None:
    for at in range(40):
        await attachment.ack(KEY, at, at)


async def test_a_write_that_races_the_end_does_not_hide_why_it_ended(agent: GrpcAgent) -> None:
    for _ in range(ROUNDS):
        async with agent.attach() as attachment, asyncio.TaskGroup() as group:
            writing = group.create_task(acknowledge_much(attachment))
            with pytest.raises(Busy, match="busy"):
                async for _ in attachment.events():
                    pass
            writing.cancel()
