"""A home takes a new key: over the old one, in one step, and the old one goes when it said."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.faults import Busy, Forbidden, MeshError
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, public_der
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.path import key_id
from dstack_mesh.trust.retiring import OVERLAP, Promise, Retiring
from dstack_mesh.trust.roster.picture import Belonging
from dstack_mesh.trust.roster.statement import Admit
from dstack_mesh.trust.switching import PLACES
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.membership import MembershipClient
from dstack_mesh.wire.renewal import say_switched
from dstack_mesh.wire.roster import RosterClient, open_keeper
from dstack_mesh.wire.rotation import (
    MOST_OVERLAPPING,
    NextKeys,
    Unsaid,
    ask_to_replace,
    next_keys,
    replace_key,
    revoke_retired,
    take_keys,
    unsaid,
)
from support.mesh_agent import MeshAgent, mesh_agent
from support.meshes import Mesh, card_of, member
from support.saying import say


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.founded(tmp_path / "root")


def enrolled(mesh: Mesh, folder: Path, role: Role = Role.RUNNER) -> Home:
    home = mesh.admit(folder, role=role)
    say(mesh, Admit(member(home).peer_id, role, folder.name, "test"))
    return home


async def rotated(home: Home, agent: MeshAgent, at_once: bool = False) -> Membership:
    keys = next_keys(home)
    async with channel_of(home, agent) as channel:
        granted = await ask_to_replace(channel, "root", keys)
    after = take_keys(home, member(home), keys, granted, at_once)
    await tells(home, agent)
    return after


@asynccontextmanager
async def channel_of(home: Home, agent: MeshAgent) -> AsyncGenerator[grpc.aio.Channel]:
    channels = Channels(home)
    yield channels.to_peer(agent.card.peer_id, agent.address)
    await channels.close()


async def tells(home: Home, agent: MeshAgent) -> None:
    """The home says to the agent that it has its new key."""
    waiting, channels = unsaid(home), Channels(home)
    assert waiting is not None
    keeper, known = (
        open_keeper(home, member(home)),
        KnownAgent(agent.card, (agent.address,), "seed", "alive", None),
    )
    await RosterClient(channels.to_peer(agent.card.peer_id, agent.address), "root").exchange(keeper)
    await say_switched(home, keeper, channels, [known], waiting, datetime.now(UTC))
    await channels.close()
    assert unsaid(home) is None


async def hello(channels: Channels, home: Home, agent: MeshAgent) -> str:
    channel = channels.to_peer(agent.card.peer_id, agent.address)
    card = card_of(home, "caller", (), agent=False)
    return (await MembershipClient(channel, "agent").hello(card)).card.name


async def test_a_new_key_has_the_name_and_role_of_the_old_one_which_goes_after_its_overlap(
    mesh: Mesh, tmp_path: Path
) -> None:
    home = enrolled(mesh, tmp_path / "ws", Role.SUBMITTER)
    before, old = member(home), Channels(home)
    async with mesh_agent(mesh.root, "root") as agent:
        assert await hello(old, home, agent) == "root"  # with the key that it has now
        after = await rotated(home, agent)
        assert after.peer_id != before.peer_id
        assert member(home) == after
        assert Identity.load_or_make(home).peer_id == after.peer_id
        picture = agent.members.picture()
        new = picture.members[after.peer_id]
        assert (new.name, new.role, new.through) == ("ws", Role.SUBMITTER, "rotation")
        fresh = Channels(home)
        assert await hello(fresh, home, agent) == "root"
        assert await hello(old, home, agent) == "root"
        keeper, now = agent.members.keeper, datetime.now(UTC)
        assert keeper is not None
        assert await revoke_retired(mesh.root, keeper, now) == []
        assert await revoke_retired(mesh.root, keeper, now + OVERLAP) == [before.peer_id]
        assert agent.members.picture().belonging(before.peer_id) is Belonging.REVOKED
        with pytest.raises(Forbidden):
            await hello(old, home, agent)
        assert await hello(fresh, home, agent) == "root"
        assert Retiring(mesh.root).all() == {}
        await fresh.close()
        await old.close()


async def test_without_overlap_the_old_key_is_refused_at_once(mesh: Mesh, tmp_path: Path) -> None:
    home = enrolled(mesh, tmp_path / "ws")
    before, old = member(home), Channels(home)
    async with mesh_agent(mesh.root, "root") as agent:
        assert await hello(old, home, agent) == "root"
        await rotated(home, agent, at_once=True)
        assert agent.members.picture().belonging(before.peer_id) is Belonging.REVOKED
        with pytest.raises(Forbidden):
            await hello(old, home, agent)
        await old.close()


async def test_a_running_agent_shows_its_old_key_until_it_is_started_again(
    mesh: Mesh, tmp_path: Path
) -> None:
    home = enrolled(mesh, tmp_path / "ws")
    before = member(home)

    def shown(port: int) -> PeerId | None:
        pem = ssl.get_server_certificate(("127.0.0.1", port))
        return key_id(x509.load_pem_x509_certificate(pem.encode()))

    async with mesh_agent(mesh.root, "root") as agent:
        async with mesh_agent(home, "ws") as ours:
            after = await rotated(home, agent)
            assert await asyncio.to_thread(shown, ours.port) == before.peer_id
        async with mesh_agent(home, "ws") as ours:
            assert await asyncio.to_thread(shown, ours.port) == after.peer_id


async def test_the_roots_home_replaces_its_own_key(mesh: Mesh) -> None:
    keeper, keys, before = open_keeper(mesh.root, mesh.membership), next_keys(mesh.root), mesh
    who, now = Member(before.membership.peer_id, Role.ROOT), datetime.now(UTC)
    signed = await replace_key(mesh.root, keeper, who, keys.request(), now)
    after = take_keys(mesh.root, mesh.membership, keys, signed)
    assert keeper.picture.members[after.peer_id].role is Role.ROOT
    channels, waiting = Channels(mesh.root), unsaid(mesh.root)
    assert waiting is not None
    assert waiting == Unsaid(who.peer_id, at_once=False)
    await say_switched(mesh.root, keeper, channels, [], waiting, now)
    old = keeper.picture.members[who.peer_id]
    assert (old.belonging, old.role) == (Belonging.MEMBER, Role.RUNNER)
    assert await revoke_retired(mesh.root, keeper, now + OVERLAP) == [who.peer_id]
    assert keeper.picture.belonging(who.peer_id) is Belonging.REVOKED
    assert keeper.picture.founded


async def test_a_known_key_and_one_that_is_no_members_are_not_taken(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin, home = enrolled(mesh, tmp_path / "ann"), enrolled(mesh, tmp_path / "ws")
    keeper, now = open_keeper(mesh.root, mesh.membership), datetime.now(UTC)
    own, other = (Identity.load_or_make(one).private_key() for one in (home, admin))
    cases = [
        (Member(member(home).peer_id, Role.RUNNER), NextKeys(own, None)),
        (Member(member(home).peer_id, Role.RUNNER), NextKeys(other, None)),
        (Member(PeerId("x" * 32), Role.RUNNER), next_keys(home)),
    ]
    for who, keys in cases:
        with pytest.raises(MeshError):
            await replace_key(mesh.root, keeper, who, keys.request(), now)
    assert keeper.picture.belonging(member(home).peer_id) is Belonging.MEMBER


async def test_of_many_keys_that_want_to_replace_one_at_once_one_does(
    mesh: Mesh, tmp_path: Path
) -> None:
    home = enrolled(mesh, tmp_path / "ws", Role.READER)
    keeper, now = open_keeper(mesh.root, mesh.membership), datetime.now(UTC)
    who = Member(member(home).peer_id, Role.READER)
    keys = [NextKeys(ec.generate_private_key(ec.SECP256R1()), None) for _ in range(12)]
    asked = [replace_key(mesh.root, keeper, who, one.request(), now) for one in keys]
    ends = await asyncio.gather(*asked, return_exceptions=True)
    codes = [one.code for one in ends if isinstance(one, MeshError)]
    assert codes == ["key-replaced"] * 11
    members = keeper.picture.members.values()
    assert [one.name for one in members if one.through == "rotation"] == ["ws"]


async def test_one_membership_does_not_become_many_by_replacing_key_after_key(
    mesh: Mesh, tmp_path: Path
) -> None:
    home = enrolled(mesh, tmp_path / "ws", Role.READER)
    keeper, now = open_keeper(mesh.root, mesh.membership), datetime.now(UTC)
    own = member(home).peer_id
    with pytest.raises(Busy):
        for _ in range(20):
            keys = NextKeys(ec.generate_private_key(ec.SECP256R1()), None)
            who = Member(own, Role.READER)
            await replace_key(mesh.root, keeper, who, keys.request(), now)
            own = PeerId(id_of_key(public_der(keys.peer.public_key())))
    rotated = [one for one in keeper.picture.members.values() if one.through == "rotation"]
    assert len(rotated) == MOST_OVERLAPPING
    await revoke_retired(mesh.root, keeper, now + OVERLAP)
    await replace_key(mesh.root, keeper, Member(own, Role.READER), next_keys(home).request(), now)


@pytest.mark.parametrize("written", range(len(PLACES) + 1))
async def test_a_switch_that_a_crash_cut_off_is_ended_by_whoever_reads_next(
    mesh: Mesh, tmp_path: Path, written: int
) -> None:
    home = enrolled(mesh, tmp_path / "ws")
    old = {name: (home.keys / name).read_bytes() for name in PLACES[1:]}
    async with mesh_agent(mesh.root, "root") as agent:
        keys = next_keys(home)
        async with channel_of(home, agent) as channel:
            granted = await ask_to_replace(channel, "root", keys)
        after = take_keys(home, member(home), keys, granted)
    new = {name: (home.keys / name).read_bytes() for name in PLACES}
    for name in PLACES[written:]:
        if name in old:
            (home.keys / name).write_bytes(old[name])
        else:
            (home.keys / name).unlink()
    said = {name: content.decode() for name, content in new.items()}
    (home.keys / "switch.json").write_text(json.dumps(said))
    assert Identity.load_or_make(home).peer_id == after.peer_id
    assert member(home) == after
    own = Identity.load_or_make(home).private_key().public_key()
    assert id_of_key(public_der(own)) == after.peer_id
    assert not (home.keys / "switch.json").exists()
    assert not (home.keys / "next-key.pem").exists()
    assert unsaid(home) is not None


def test_a_promise_to_revoke_is_kept_over_a_restart_and_never_put_off(tmp_path: Path) -> None:
    home, now = Home(tmp_path), datetime.now(UTC)
    home.prepare()
    one, two = PeerId("a" * 32), PeerId("b" * 32)
    three = PeerId("c" * 32)
    Retiring(home).add(one, Promise(now + timedelta(hours=2), two))
    Retiring(home).add(one, Promise(now + timedelta(hours=9), two))
    Retiring(home).add(two, Promise(now + timedelta(hours=3), three))
    assert Retiring(home).due(now + timedelta(hours=2)) == [one]
    assert Retiring(home).replaced_by(three) == [two, one]
    assert Retiring(home).replaced_by(two) == [one]
    Retiring(home).forget([one])
    assert list(Retiring(home).all()) == [two]


def test_promises_made_at_once_are_all_kept_and_one_too_many_is_refused(tmp_path: Path) -> None:
    home, now = Home(tmp_path), datetime.now(UTC)
    home.prepare()
    by = PeerId("b" * 32)

    def promise(number: int) -> None:
        Retiring(home).add(PeerId(f"{number:032}"), Promise(now + timedelta(hours=number), by))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(promise, range(64)))
    assert len(Retiring(home).all()) == 64
    kept = {PeerId(f"{number:032}"): {"at": now.isoformat(), "by": by} for number in range(1024)}
    (home.keys / "retiring.json").write_text(json.dumps(kept))
    with pytest.raises(Busy):
        promise(2000)
    promise(3)  # was promised already
    assert len(Retiring(home).all()) == 1024
