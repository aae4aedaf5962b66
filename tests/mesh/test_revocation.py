"""Who was revoked is heard by nobody, calls nobody and is called by nobody, within seconds."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Forbidden, MeshError, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.picture import Belonging, Picture
from dstack_mesh.trust.roster.spreading import Pace
from dstack_mesh.trust.roster.statement import Admit, Assign, Revoke
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.membership import MembershipClient
from dstack_mesh.wire.roster import RosterClient, open_book, open_keeper, scribe_of
from dstack_mesh.wire.server import listen_tcp, make_server
from dstack_mesh.wire.spreading import RosterSpreading
from dstack_mesh.wire.standings import Standings
from dstack_mesh.wire.vetting import Vetting
from support.eventually import eventually_async
from support.mesh_agent import MeshAgent, mesh_agent
from support.meshes import Mesh, card_of, member
from support.rosters import admit, governed, peer
from support.rounds import rounds
from support.saying import say
from support.unused_runs import Unused

WITHIN = 5.0
"""What is promised."""


def admitted(mesh: Mesh, folder: Path, name: str, role: Role = Role.RUNNER) -> Home:
    """A member that is in the root's roster."""
    home = mesh.admit(folder / name, role=role)
    say(mesh, Admit(member(home).peer_id, role, name, "test"))
    return home


@asynccontextmanager
async def agents(mesh: Mesh, folder: Path, count: int) -> AsyncGenerator[list[MeshAgent]]:
    """The root's agent and others, who know one another by the root's as a seed."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(mesh_agent(mesh.root, "root"))
        made = [first]
        for number in range(1, count):
            home = admitted(mesh, folder, f"ws-{number}")
            agent = mesh_agent(home, f"ws-{number}", seeds=(first.address,))
            made.append(await stack.enter_async_context(agent))
        yield made


async def agree(agents_: Sequence[MeshAgent], within: float = 20.0) -> None:
    async def same() -> bool:
        return len({one.members.digest() for one in agents_}) == 1

    await eventually_async(same, within)


async def learns_of_the_end(agent: MeshAgent, peer: PeerId) -> None:
    """Returns when the agent knows that the peer was revoked."""

    async def known() -> bool:
        return agent.members.picture().belonging(peer) is Belonging.REVOKED

    await eventually_async(known, WITHIN)


class Listener:
    """A call that stays open at an agent; `ended` is how it ended."""

    def __init__(self, channels: Channels, agent: MeshAgent) -> None:
        channel = channels.to_peer(agent.card.peer_id, agent.address)
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its stubs know the synchronous part only
        self._call: Any = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        self.ended: MeshError | None = None
        self.ended_at = 0.0

    async def begin(self) -> None:
        await self._call.read()

    async def run(self) -> None:
        try:
            with translated("agent"):
                while await self._call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                    pass
        except MeshError as ended:
            self.ended, self.ended_at = ended, time.monotonic()


async def hello(channels: Channels, home: Home, peer: PeerId, address: Address) -> None:
    client = MembershipClient(channels.to_peer(peer, address), "agent")
    await client.hello(card_of(home, "lost", agent=False))


async def test_a_revocation_ends_open_calls_everywhere_and_no_call_begins(
    tmp_path: Path,
) -> None:
    """With `DSTACK_CHAOS_ROUNDS=20`: on twenty agents."""
    mesh, count = Mesh.make(tmp_path / "root"), rounds(5)
    lost = admitted(mesh, tmp_path, "lost")
    async with agents(mesh, tmp_path, count) as made:
        await agree(made)
        channels = Channels(lost)
        listeners = [Listener(channels, agent) for agent in made]
        for listener in listeners:
            await listener.begin()
        running = [asyncio.create_task(listener.run()) for listener in listeners]
        began = time.monotonic()
        say(mesh, Revoke(member(lost).peer_id, "lost"))
        await asyncio.wait_for(asyncio.gather(*running), WITHIN)
        spent = [listener.ended_at - began for listener in listeners]
        print(f"{count} agents: all open calls ended after {max(spent):.2f} s")
        assert {type(one.ended) for one in listeners} == {Forbidden}
        assert {one.ended.code for one in listeners if one.ended} == {"revoked"}
        for agent in made:
            with pytest.raises(Forbidden) as refused:
                await hello(channels, lost, agent.card.peer_id, agent.address)
            assert refused.value.code == "revoked"
        assert max(spent) <= WITHIN
        await channels.close()


async def test_an_agent_that_was_away_learns_it_at_its_first_contact(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    lost = admitted(mesh, tmp_path, "lost")
    away = admitted(mesh, tmp_path, "away")
    async with mesh_agent(mesh.root, "root") as first:
        async with mesh_agent(away, "away", seeds=(first.address,)) as agent:
            await agree([first, agent])
        say(mesh, Revoke(member(lost).peer_id))
        channels = Channels(lost)
        async with mesh_agent(away, "away") as alone:
            await hello(channels, lost, alone.card.peer_id, alone.address)
        async with mesh_agent(away, "away", seeds=(first.address,)) as back:
            await learns_of_the_end(back, member(lost).peer_id)
            with pytest.raises(Forbidden):
                await hello(channels, lost, back.card.peer_id, back.address)
        await channels.close()


async def test_a_revoked_agent_is_not_called_any_more(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    async with agents(mesh, tmp_path, 3) as made:
        await agree(made)
        _, lost, other = made
        say(mesh, Revoke(lost.card.peer_id))
        await learns_of_the_end(other, lost.card.peer_id)
        channels = Channels(other.home, other.members.picture)
        with pytest.raises(Forbidden):
            channels.to_peer(lost.card.peer_id, lost.address)
        await channels.close()

        async def forgotten() -> bool:
            return "ws-1" not in {n for n, state in other.sees().items() if state == "alive"}

        await eventually_async(forgotten, 15)


@pytest.mark.parametrize("renewed", [False, True])
async def test_a_channel_to_a_revoked_peer_closes(tmp_path: Path, renewed: bool) -> None:
    mesh = Mesh.make(tmp_path / "root")
    async with agents(mesh, tmp_path, 2) as made:
        lost = made[1]
        channels = Channels(mesh.root)
        listener = Listener(channels, lost)
        await listener.begin()
        running = asyncio.create_task(listener.run())
        if renewed:
            channels.renew()
        await channels.shut([lost.card.peer_id])
        async with asyncio.timeout(2):
            await asyncio.gather(running, return_exceptions=True)
        await channels.close()


async def test_who_is_revoked_before_its_exchange_ends_nobodys_spreading(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    lost = admitted(mesh, tmp_path, "lost")
    keeper = open_keeper(mesh.root, mesh.membership)
    say(mesh, Revoke(member(lost).peer_id))
    newer, asked = open_keeper(mesh.root, mesh.membership).picture, list[float]()

    def picture() -> Picture:
        asked.append(time.monotonic())
        return newer

    card = card_of(lost, "lost", ("127.0.0.1:9",))
    there = (KnownAgent(card, card.addresses, "seed", "alive", None),)
    channels = Channels(mesh.root, picture)
    spreading = RosterSpreading(keeper, channels, lambda: there, SystemClock(), Pace(retry=0.1))
    running = asyncio.create_task(spreading.run())

    async def tried_again() -> bool:
        return running.done() or len(asked) >= 2

    await eventually_async(tried_again, within=5)
    assert not running.done()
    running.cancel()
    await channels.close()


async def test_another_role_ends_open_calls_and_counts_in_the_next(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home = admitted(mesh, tmp_path, "laptop", Role.SUBMITTER)
    async with mesh_agent(mesh.root, "root") as agent:
        channels = Channels(home)
        listener = Listener(channels, agent)
        await listener.begin()
        running = asyncio.create_task(listener.run())
        say(mesh, Assign(member(home).peer_id, Role.READER))
        async with asyncio.timeout(WITHIN):
            await running
        assert isinstance(listener.ended, Unreachable)
        assert listener.ended.code == "role-changed"
        await hello(channels, home, agent.card.peer_id, agent.address)
        picture = agent.members.picture()
        assert picture.role(member(home).peer_id, Role.SUBMITTER) is Role.READER
        await channels.close()


async def test_a_call_that_is_ending_is_not_interrupted_by_the_next_change() -> None:
    lab = governed("ann")
    lab.say("root", admit("ws"))
    standings, going_on = Standings(lambda: lab.roster("root").picture), asyncio.Event()

    async def call() -> str:
        with standings.during(Member(peer("ws"), Role.RUNNER)) as during:
            try:
                going_on.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)  # as the guard says why
            return during.cut.code if during.cut else ""

    running = asyncio.create_task(call())
    await going_on.wait()
    for fact in (Revoke(peer("ws")), admit("other")):
        lab.say("root", fact)
        standings.changed(lab.roster("root").picture)
        await asyncio.sleep(0.01)
    assert await running == "revoked"


async def test_a_command_that_could_not_exchange_rosters_with_one_agent_does_with_the_next(
    tmp_path: Path,
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    lost, laptop = admitted(mesh, tmp_path, "lost"), admitted(mesh, tmp_path, "laptop")
    book = open_book(laptop, mesh.membership.mesh_id)
    book.add(open_keeper(mesh.root, mesh.membership).roster.statements.values())
    say(mesh, Revoke(member(lost).peer_id))
    async with mesh_agent(mesh.root, "root") as agent:
        digest, channels = agent.members.digest(), Channels(laptop)
        vetting = Vetting(laptop, channels)
        card = replace(card_of(lost, "lost"), roster=digest)
        nobody = KnownAgent(card, (Address("127.0.0.1:9"),), "seed", "alive", None)
        assert await vetting.may_run(nobody), "nobody told us otherwise"
        root = replace(agent.card, roster=digest)
        assert await vetting.may_run(KnownAgent(root, (agent.address,), "seed", "alive", None))
        assert not await vetting.may_run(nobody)
        await channels.close()


async def test_the_old_roster_of_a_stale_peer_restores_nobody(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    lost, stale = admitted(mesh, tmp_path, "lost"), admitted(mesh, tmp_path, "stale")
    async with mesh_agent(mesh.root, "root") as agent:
        old = open_keeper(stale, member(stale))
        channels = Channels(stale)
        client = RosterClient(channels.to_peer(agent.card.peer_id, agent.address), "root")
        await client.exchange(old)
        before = dict(old.roster.statements)
        say(mesh, Revoke(member(lost).peer_id))
        await learns_of_the_end(agent, member(lost).peer_id)
        kept = agent.members.keeper
        assert kept is not None
        await kept.absorb([one.signed for one in before.values()])
        await learns_of_the_end(agent, member(lost).peer_id)
        assert (await client.exchange(old)).learned == 1
        assert old.picture.belonging(member(lost).peer_id) is Belonging.REVOKED
        await channels.close()


async def test_a_revoked_reader_that_reads_nothing_is_cut_too(tmp_path: Path) -> None:
    """A stream whose reader is slow waits in a write: that is where it ends."""
    mesh = Mesh.make(tmp_path / "root")
    lost = admitted(mesh, tmp_path, "lost")
    keeper = open_keeper(mesh.root, mesh.membership)
    standings = Standings(lambda: keeper.picture)
    keeper.subscribe(standings.changed)
    ended = asyncio.Event()

    class Floods(Unused):
        async def Attach(
            self, request_iterator: AsyncIterator[pb.AttachRequest], context: Any
        ) -> AsyncGenerator[pb.AttachResponse]:
            try:
                while True:
                    yield pb.AttachResponse(log=pb.LogFrame(data=b"x" * 65536))
            finally:
                ended.set()

    server, channels = make_server(standings=standings), Channels(lost)
    rpc.add_RunServiceServicer_to_server(Floods(), server)
    port = listen_tcp(server, mesh.membership, "127.0.0.1", 0)
    await server.start()
    stub = rpc.RunServiceStub(channels.to_unknown(Address(f"127.0.0.1:{port}")))
    call = stub.Attach()
    await call.read()
    await asyncio.sleep(0.3)  # until the window is full
    scribe = scribe_of(mesh.root, mesh.membership)
    facts = (Revoke(member(lost).peer_id),)
    await keeper.issue(lambda roster: scribe.write(roster, facts, datetime.now(UTC)))
    async with asyncio.timeout(WITHIN):
        await ended.wait()
        with pytest.raises(Forbidden), translated("root"):
            while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                pass
    await channels.close()
    await server.stop(0)
