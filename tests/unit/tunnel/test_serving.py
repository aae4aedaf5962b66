"""A stream of connections ends at any moment, and nothing of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest

from dstack_agent.executor.listening import Spot
from dstack_agent.jobs.chronicle import Chronicle
from dstack_agent.jobs.doorkeeper import Doorkeeper
from dstack_agent.servicers.tunnel import Load, Tunnel
from dstack_mesh.ids import RunId
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_scheduler.job import JobKey, JobState, StateChange

KEY = JobKey(RunId("0" * 26), 0)
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Door:
    """Where a job listens; found once `found` is set."""

    port: int
    found: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def spot(self, key: JobKey, index: int) -> Spot:
        self.asked.set()
        await self.found.wait()
        return Spot("127.0.0.1", self.port)

    def connected(self, key: JobKey) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Stream:
    """One that opens a connection when told, and ends when told."""

    door: Door
    opens: asyncio.Event = field(default_factory=asyncio.Event)
    ends: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Event = field(default_factory=asyncio.Event)
    chronicle: Chronicle = field(
        default_factory=lambda: Chronicle([StateChange(KEY, JobState.RUNNING, AT)])
    )
    load: Load = field(default_factory=Load)

    async def requests(self) -> AsyncIterator[pb.CarryRequest]:
        await self.opens.wait()
        yield pb.CarryRequest(open=pb.Open(connection=1, port=0))
        await self.ends.wait()

    async def write(self, response: pb.CarryResponse) -> None:
        """Takes nothing, as a stream whose other end does not read."""
        self.writing.set()
        await asyncio.Event().wait()

    async def serve(self) -> None:
        tunnel = Tunnel(cast(Doorkeeper, self.door), KEY, self.write, self.load)
        await tunnel.serve(self.requests(), self.chronicle)

    def end_of_job(self) -> None:
        self.chronicle.tell(StateChange(KEY, JobState.DONE, AT, exit_code=0))


@dataclass
class Server:
    """What a job listens with, and which connections to it are over."""

    port: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        self.over.set()


@asynccontextmanager
async def listening() -> AsyncGenerator[Server]:
    made = Server()
    async with await asyncio.start_server(made.accepted, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


@pytest.mark.parametrize("by", ["client", "job", "call"])
async def test_a_stream_that_ends_while_a_connection_is_made_counts_none(by: str) -> None:
    stream = Stream(Door(1))
    serving = asyncio.create_task(stream.serve())
    stream.opens.set()
    await stream.door.asked.wait()
    assert stream.load.connections == 1
    await end(stream, serving, by)
    assert stream.load.connections == 0


@pytest.mark.parametrize("by", ["client", "job", "call"])
async def test_a_stream_that_ends_before_a_connection_is_told_of_closes_it(by: str) -> None:
    async with listening() as server, asyncio.timeout(10):
        stream = Stream(Door(server.port))
        serving = asyncio.create_task(stream.serve())
        stream.door.found.set()
        stream.opens.set()
        await stream.writing.wait()
        await end(stream, serving, by)
        assert stream.load.connections == 0
        await server.over.wait()


@pytest.mark.parametrize("first", ["job", "open"])
async def test_a_connection_asked_for_while_the_job_ends_counts_no_more(first: str) -> None:
    for later in range(8):
        stream = Stream(Door(1))
        serving = asyncio.create_task(stream.serve())
        await asyncio.sleep(0)
        happens = [stream.end_of_job, stream.opens.set]
        for happen in happens if first == "job" else reversed(happens):
            happen()
            for _ in range(later):
                await asyncio.sleep(0)
        await asyncio.wait([serving])
        assert stream.load.connections == 0


async def end(stream: Stream, serving: asyncio.Task[None], by: str) -> None:
    """Ends a stream: its client does, the job, or the call is cancelled."""
    match by:
        case "client":
            stream.ends.set()
        case "job":
            stream.end_of_job()
        case _:
            serving.cancel()
    await asyncio.wait([serving])
