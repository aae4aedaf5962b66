"""Records follow the roster: whose word counts is decided by who may run jobs, at each moment."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_agent.gossip import Chorus, open_chorus
from dstack_agent.members import Members
from dstack_agent.servicers.records import RecordServicer
from dstack_agent.servicers.resting import Rests
from dstack_mesh.card import HelloAnswer
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Forbidden
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.record import NOTHING, Entry
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.statement import Admit, Assign, Fact, Revoke
from dstack_mesh.v1 import records_pb2_grpc as rpc
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.records import GrpcRecordPeer
from dstack_mesh.wire.roster import record_founder
from dstack_mesh.wire.server import listen_tcp, make_server
from support.eventually import eventually_async
from support.meshes import Mesh, card_of, member
from support.saying import say

CLOCK = SystemClock()


@dataclass
class Agent:
    """The part of an agent that gossips, with the roster of its home."""

    home: Home
    members: Members
    chorus: Chorus
    channels: Channels
    port: int
    known: list[KnownAgent]

    @property
    def peer_id(self) -> PeerId:
        return self.chorus.book.writer

    @property
    def address(self) -> Address:
        return Address(f"127.0.0.1:{self.port}")

    def as_known(self) -> KnownAgent:
        card = card_of(self.home, "ws", (self.address,))
        answer = HelloAnswer(card, AgentState.ALIVE, Machine(1, 1, 1, 1), (), (), CLOCK.now())
        return KnownAgent(card, (self.address,), "seed", "alive", answer)

    def client_of(self, other: "Agent") -> GrpcRecordPeer:
        return GrpcRecordPeer(self.channels.to_peer(other.peer_id, other.address), "ws")

    async def hears(self, mesh: Mesh, *facts: Fact) -> None:
        """The mesh's root says it, and it arrives here."""
        assert self.members.keeper is not None
        said = say(mesh, *facts).statements.values()
        await self.members.keeper.absorb([one.signed for one in said])


@asynccontextmanager
async def agent(home: Home) -> AsyncGenerator[Agent]:
    async with AsyncExitStack() as stack:
        home.prepare()
        members = Members(home, member(home))
        channels = Channels(home, members.picture)
        stack.push_async_callback(channels.close)
        known: list[KnownAgent] = []
        chorus = await open_chorus(
            home, channels, lambda: known, members, CLOCK, lambda _: (), stack
        )
        server = make_server(standings=members.standings)
        rpc.add_RecordServiceServicer_to_server(RecordServicer(chorus.gossiping, Rests()), server)
        port = listen_tcp(server, member(home), "127.0.0.1", 0)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        running = asyncio.create_task(chorus.spreader.run())
        stack.callback(running.cancel)
        yield Agent(home, members, chorus, channels, port, known)


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    made = Mesh.make(tmp_path / "root")
    record_founder(made.root, made.membership, "root", datetime.now(UTC))
    return made


def admission(home: Home, role: Role = Role.RUNNER) -> Admit:
    return Admit(member(home).peer_id, role, "ws", "test")


async def test_a_revoked_writer_is_dropped_at_once_and_taken_from_nobody(
    mesh: Mesh, tmp_path: Path
) -> None:
    homes = [mesh.admit(tmp_path / name) for name in ("a", "b", "c")]
    async with agent(homes[0]) as a, agent(homes[1]) as b, agent(homes[2]) as c:
        for one in (a, b, c):
            await one.hears(mesh, *map(admission, homes))
        await c.chorus.book.write([Entry("run", "old", b"x")])
        stream = c.chorus.book.since(c.peer_id, NOTHING)
        assert stream is not None
        for one in (a, b):
            await c.client_of(one).push([stream])
            assert c.peer_id in one.chorus.book.streams
        await a.hears(mesh, Revoke(c.peer_id))
        assert c.peer_id not in a.chorus.book.streams
        assert c.peer_id in a.chorus.book.past
        # B has not heard of it, and brings what it holds.
        await c.chorus.book.write([Entry("run", "new", b"x")])
        newer = c.chorus.book.since(c.peer_id, NOTHING)
        assert newer is not None
        await c.client_of(b).push([newer])
        assert (await b.client_of(a).push([newer])).news == 0
        assert c.peer_id not in a.chorus.book.streams
        assert ("run", "new") not in a.chorus.book.past[c.peer_id].records


async def test_a_writer_that_is_not_in_the_roster_waits_until_it_is(
    mesh: Mesh, tmp_path: Path
) -> None:
    ours, theirs = mesh.admit(tmp_path / "a"), mesh.admit(tmp_path / "b")
    async with agent(ours) as a, agent(theirs) as b:
        for one in (a, b):
            await one.hears(mesh, admission(ours))
        await b.chorus.book.write([Entry("run", "r", b"x")])
        a.known[:] = [b.as_known()]
        pushed = b.chorus.book.since(b.peer_id, NOTHING)
        assert pushed is not None
        assert (await b.client_of(a).push([pushed])).news == 0
        assert b.peer_id not in a.chorus.book.streams
        await a.hears(mesh, admission(theirs))

        async def known() -> bool:
            return b.peer_id in a.chorus.book.streams

        await eventually_async(known, within=5)


@pytest.mark.parametrize("role", [Role.READER, Role.SUBMITTER])
async def test_only_who_may_run_jobs_writes(mesh: Mesh, tmp_path: Path, role: Role) -> None:
    ours, theirs = mesh.admit(tmp_path / "a"), mesh.admit(tmp_path / "b")
    async with agent(ours) as a, agent(theirs) as b:
        await a.hears(mesh, admission(ours), admission(theirs))
        await b.chorus.book.write([Entry("run", "r", b"x")])
        stream = b.chorus.book.since(b.peer_id, NOTHING)
        assert stream is not None
        assert (await b.client_of(a).push([stream])).news == 1
        await a.hears(mesh, Assign(b.peer_id, role))
        assert b.peer_id not in a.chorus.book.streams
        with pytest.raises(Forbidden):
            await b.client_of(a).push([stream])
        await a.hears(mesh, Assign(b.peer_id, Role.RUNNER))
        assert b.peer_id in a.chorus.book.streams
