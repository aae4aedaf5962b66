"""The part of an agent that gossips, over the real network stack."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from dstack_agent.hearsay import Hearsay
from dstack_agent.pulse import Pulse
from dstack_agent.servicers.records import Gossiping, RecordServicer
from dstack_agent.servicers.resting import Rests
from dstack_mesh.card import HelloAnswer
from dstack_mesh.clock import SystemClock
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.gossip import Gossip, Policy
from dstack_mesh.records.record import NOTHING, Delta, Entry
from dstack_mesh.records.replica import BOUNDS, Bounds
from dstack_mesh.records.spreader import Spreader
from dstack_mesh.records.store import RecordStore
from dstack_mesh.signing import Signer
from dstack_mesh.v1 import records_pb2 as pb
from dstack_mesh.v1 import records_pb2_grpc as rpc
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.ending import answer_of
from dstack_mesh.wire.records import GrpcRecordPeer
from dstack_mesh.wire.server import listen_tcp, make_server
from support.meshes import Mesh, card_of, member

CLOCK = SystemClock()


@dataclass
class Agent:
    """The part of an agent that gossips."""

    home: Home
    book: RecordBook
    channels: Channels
    port: int
    known: list[KnownAgent]

    @property
    def address(self) -> Address:
        return Address(f"127.0.0.1:{self.port}")

    def meet(self, *others: "Agent") -> None:
        """Has it know others that answer."""
        self.known[:] = [other.as_known() for other in others if other is not self]

    def as_known(self) -> KnownAgent:
        card = card_of(self.home, "ws", (self.address,))
        answer = HelloAnswer(card, AgentState.ALIVE, Machine(1, 1, 1, 1), (), (), CLOCK.now())
        return KnownAgent(card, (self.address,), "seed", "alive", answer)

    def shown(self) -> dict[tuple[PeerId, str], bytes]:
        return {
            (writer, record.entry.key): record.entry.payload
            for writer, stream in self.book.streams.items()
            for record in stream.records.values()
        }


@asynccontextmanager
async def agent(home: Home, gossips: bool = True, bounds: Bounds = BOUNDS) -> AsyncGenerator[Agent]:
    async with AsyncExitStack() as stack:
        home.prepare()
        store = RecordStore(home.state / "records.db")
        stack.callback(store.close)
        book = RecordBook(store, Signer.of(Identity.load_or_make(home)), CLOCK, bounds=bounds)
        await book.open()
        channels = Channels(home)
        stack.push_async_callback(channels.close)
        known: list[KnownAgent] = []

        def dial(peer: PeerId, address: Address) -> GrpcRecordPeer:
            return GrpcRecordPeer(channels.to_peer(peer, address), "ws")

        gossip = Gossip(book.writer, Random(), Policy(interval=1.0, away_interval=0.5))
        spreader = Spreader(book, lambda: known, dial, CLOCK, gossip)
        hearsay = Hearsay(book, Pulse(lambda: known, CLOCK), CLOCK)
        server = make_server()
        rpc.add_RecordServiceServicer_to_server(
            RecordServicer(Gossiping(book, hearsay, spreader.behind), Rests()), server
        )
        port = listen_tcp(server, member(home), "127.0.0.1", 0)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        if gossips:
            running = asyncio.create_task(spreader.run())
            stack.callback(running.cancel)
        yield Agent(home, book, channels, port, known)


@pytest.fixture
async def quiet(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Agent]:
    """An agent that gossips with nobody by itself."""
    async with agent(mesh.admit(tmp_path / "quiet"), gossips=False) as found:
        yield found


@pytest.fixture
async def writer(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent(mesh.admit(tmp_path / "writer"), gossips=False) as found:
        yield found


def word(key: str, payload: bytes = b"x") -> Entry:
    return Entry("run", key, payload)


def stub(caller: Agent, called: Agent) -> "rpc.RecordServiceAsyncStub":
    return rpc.RecordServiceStub(caller.channels.to_peer(called.book.writer, called.address))


def client(caller: Agent, called: Agent) -> GrpcRecordPeer:
    return GrpcRecordPeer(caller.channels.to_peer(called.book.writer, called.address), "ws")


async def push(caller: Agent, called: Agent, *sent: pb.RecordFrame) -> pb.RecordServicePushResponse:
    requests = [pb.RecordServicePushRequest(frame=frame) for frame in sent]
    return await answer_of(stub(caller, called).Push(iter(requests), timeout=10), "ws")


def whole(of: Agent) -> Delta:
    delta = of.book.since(of.book.writer, NOTHING)
    assert delta is not None
    return delta
