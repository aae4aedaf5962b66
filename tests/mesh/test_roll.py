"""Agents on loopback that know each other by seeds, memory and hearsay; no multicast."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_agent.servicers.membership import Answers, MembershipServicer
from dstack_mesh.card import PeerHint
from dstack_mesh.clock import SystemClock
from dstack_mesh.discovery.saved import load_saved
from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.membership.roll import RollCall
from dstack_mesh.own_name import own_name
from dstack_mesh.trust.membership import Membership
from dstack_mesh.v1 import membership_pb2_grpc
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import command_card, open_roll_call
from dstack_mesh.wire.membership import MOST_ADDRESSES, MembershipClient
from dstack_mesh.wire.server import listen_tcp, make_server
from support.eventually import eventually_async
from support.mesh_agent import MACHINE, MeshAgent, mesh_agent
from support.meshes import Mesh, card_of, member


@asynccontextmanager
async def roll_of(
    home: Home, *seeds: str, mdns: bool = False, off: dict[str, str] | None = None
) -> AsyncGenerator[RollCall]:
    channels = Channels(home)
    try:
        yield open_roll_call(home, channels, off or {}, seeds=seeds, mdns=mdns)
    finally:
        await channels.close()


async def sees(agent: MeshAgent, **expected: str) -> None:
    async def look() -> bool:
        return agent.sees() == expected

    try:
        await eventually_async(look, within=25)
    except AssertionError:
        raise AssertionError(f"sees {agent.sees()}, not {expected}") from None


async def collected(roll: RollCall, within: float) -> tuple[KnownAgent, ...]:
    """Everybody that a command finds."""
    return tuple([agent async for agent in roll.gather(within)])


async def test_agents_learn_of_each_other_from_one_seed(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    homes = [mesh.admit(tmp_path / name) for name in ("a", "b", "c")]
    async with (
        mesh_agent(homes[0], "a") as a,
        mesh_agent(homes[1], "b", seeds=(a.address,)) as b,
        mesh_agent(homes[2], "c", seeds=(a.address,)) as c,
    ):
        await sees(a, b="alive", c="alive")
        await sees(b, a="alive", c="alive")
        await sees(c, a="alive", b="alive")
        found = {agent.card.name: agent.found_by for agent in b.roll.agents()}
        assert found == {"a": "seed", "c": "peer"}


async def test_an_agent_of_another_mesh_is_seen_by_nobody(tmp_path: Path) -> None:
    ours, theirs = Mesh.make(tmp_path / "ours"), Mesh.make(tmp_path / "theirs")
    homes = [ours.admit(tmp_path / name) for name in ("a", "b")]
    async with (
        mesh_agent(theirs.admit(tmp_path / "x"), "x") as x,
        mesh_agent(homes[1], "b") as b,
        mesh_agent(homes[0], "a", seeds=(x.address, b.address)) as a,
    ):
        await sees(a, b="alive")
        assert set(a.sees()) == {"b"}
        assert x.sees() == {}


async def test_an_agent_that_ends_is_suspect_then_gone_and_alive_when_it_is_back(
    tmp_path: Path,
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home, other = mesh.admit(tmp_path / "a"), mesh.admit(tmp_path / "b")
    async with mesh_agent(home, "a") as a:
        async with mesh_agent(other, "b", seeds=(a.address,)) as b:
            await sees(a, b="alive")
            port = b.port
        began = time.monotonic()
        await sees(a, b="suspect")
        await sees(a, b="gone")
        assert time.monotonic() - began <= 10
        async with mesh_agent(other, "b", port=port):
            await sees(a, b="alive")


@pytest.mark.timed
async def test_a_command_finds_agents_by_a_seed_and_remembers_them(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    laptop = mesh.admit(tmp_path / "laptop")
    homes = [mesh.admit(tmp_path / name) for name in ("a", "b")]
    async with (
        mesh_agent(homes[0], "a") as a,
        mesh_agent(homes[1], "b", seeds=(a.address,)) as b,
    ):
        await sees(a, b="alive")
        async with roll_of(laptop, a.address) as roll:
            found = {agent.card.name: agent.found_by for agent in await collected(roll, within=5)}
        assert found == {"a": "seed", "b": "peer"}
        assert len(load_saved(laptop.saved_peers, mesh.membership.mesh_id)) == 2
        async with roll_of(laptop) as roll:
            began = time.monotonic()
            found = {agent.card.name: agent.found_by for agent in await collected(roll, within=5)}
            assert time.monotonic() - began < 1
        assert found == {"a": "saved", "b": "saved"}
        await b.server.stop(0)
        async with roll_of(laptop) as roll:
            states = {agent.card.name: agent.state for agent in await collected(roll, within=5)}
        assert states == {"a": "alive", "b": "gone"}


async def test_a_command_may_stop_as_soon_as_it_has_what_it_needs(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    laptop, home = mesh.admit(tmp_path / "laptop"), mesh.admit(tmp_path / "a")
    # Nobody answers at the other seed, and multicast would go on for a minute.
    nobody = "192.0.2.1:9"
    async with (
        mesh_agent(home, "a") as a,
        roll_of(laptop, a.address, nobody, mdns=True) as roll,
    ):
        began = time.monotonic()
        async with aclosing(roll.gather(within=60)) as gathered:
            async for agent in gathered:
                assert agent.card.name == "a"
                break
        needed = [one async for one in roll.gather(60, need=lambda found: len(found) >= 1)]
        assert [one.card.name for one in needed] == ["a"]
        assert time.monotonic() - began < 5


async def test_a_command_ends_in_time_whoever_has_not_answered(tmp_path: Path) -> None:
    laptop = Mesh.make(tmp_path / "root").admit(tmp_path / "laptop")
    async with roll_of(laptop, "192.0.2.1:9") as roll:
        began = time.monotonic()
        assert await collected(roll, within=0.5) == ()
        assert time.monotonic() - began < 2


async def test_the_agent_of_this_home_is_among_those_found_once(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home, other = mesh.admit(tmp_path / "a"), mesh.admit(tmp_path / "b")
    async with (
        mesh_agent(home, "a", local=True) as a,
        mesh_agent(other, "b", seeds=(a.address,)) as b,
    ):
        await sees(a, b="alive")
        async with roll_of(home, a.address, b.address) as roll:
            found = {
                one.card.name: (one.found_by, one.local) for one in await collected(roll, within=5)
            }
    assert found["a"] == ("local", True)
    assert set(found) == {"a", "b"}


async def test_a_home_outside_any_mesh_has_its_own_agent_or_nobody(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    async with roll_of(home, "127.0.0.1:9") as roll:
        assert await collected(roll, within=5) == ()
    home.prepare()
    home.agent_socket.touch()  # an agent that was killed
    async with roll_of(home) as roll:
        assert await collected(roll, within=5) == ()


async def test_a_command_with_an_expired_certificate_says_so(tmp_path: Path) -> None:
    born = datetime.now(UTC) - timedelta(days=9)
    home = Mesh.make(tmp_path / "root").admit(tmp_path / "laptop", born, timedelta(days=1))
    async with roll_of(home, "127.0.0.1:9") as roll:
        with pytest.raises(Refused) as refused:
            await collected(roll, within=1)
    assert refused.value.code == "certificate-expired"


async def test_an_agent_writes_down_whom_it_reached(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home, other = mesh.admit(tmp_path / "a"), mesh.admit(tmp_path / "b")
    async with mesh_agent(home, "a") as a, mesh_agent(other, "b", seeds=(a.address,)):

        async def written() -> bool:
            return len(load_saved(other.saved_peers, mesh.membership.mesh_id)) == 1

        await eventually_async(written, within=10)
    membership = Membership.load(other)
    assert membership is not None


async def test_many_agents_answer_one_command(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    laptop = mesh.admit(tmp_path / "laptop")
    async with asyncio.TaskGroup() as tasks:
        stop = asyncio.Event()
        started: asyncio.Queue[MeshAgent] = asyncio.Queue()

        async def serve(number: int) -> None:
            home = mesh.admit(tmp_path / f"ws-{number}")
            async with mesh_agent(home, f"ws-{number}") as agent:
                started.put_nowait(agent)
                await stop.wait()

        for number in range(10):
            tasks.create_task(serve(number))
        agents = [await started.get() for _ in range(10)]
        async with roll_of(laptop, *(agent.address for agent in agents)) as roll:
            found = await collected(roll, within=10)
        stop.set()
    assert len(found) == 10


async def test_an_agent_is_heard_only_of_addresses_that_may_be_dialled(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home, heard = mesh.admit(tmp_path / "a"), list[PeerHint]()
    answers = Answers(
        card=lambda: card_of(mesh.root, "root"),
        state=lambda: AgentState.ALIVE,
        machine=lambda: MACHINE,
        running=lambda: (),
        known=lambda: (),
        heard=heard.append,
    )
    server = make_server()
    servicer = MembershipServicer(answers, SystemClock())
    membership_pb2_grpc.add_MembershipServiceServicer_to_server(servicer, server)
    port = listen_tcp(server, mesh.membership, "127.0.0.1", 0)
    await server.start()
    channels = Channels(home)
    channel = channels.to_peer(mesh.membership.peer_id, Address(f"127.0.0.1:{port}"))
    client = MembershipClient(channel, "root")
    hidden = ["\x1b[2J\x1b[31mhere:1", "[fe80::1%\x1b[31m]:80", "evil.example:80"]
    many = [f"10.0.{number >> 8}.{number & 255}:1" for number in range(1, 50_000)]
    await client.hello(card_of(home, "a", (*hidden, *many)))
    [told] = heard
    assert told.peer_id == member(home).peer_id
    assert 0 < len(told.addresses) <= MOST_ADDRESSES
    assert set(told.addresses) <= set(many)
    with pytest.raises(Invalid):
        await client.hello(replace(card_of(home, "a"), peer_id=PeerId("nobody")))
    assert len(heard) == 1
    await channels.close()
    await server.stop(0)


def test_a_command_names_itself_as_its_agent_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Mesh.make(tmp_path / "root").root
    monkeypatch.setenv("DSTACK_NAME", "ws 9\x1b")
    assert command_card(home).name == "ws9"
    monkeypatch.delenv("DSTACK_NAME")
    assert command_card(home).name == own_name({})
