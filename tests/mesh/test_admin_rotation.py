"""An admin and the root take new keys, the old ones end, and whatever is cut off goes on."""

import asyncio
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Forbidden, Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.authority import Authority
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.recovery import restore, write_recovery
from dstack_mesh.trust.renewing import issuer_of_home
from dstack_mesh.trust.retiring import OVERLAP, Promise, Retiring
from dstack_mesh.trust.roster.enrolment import Enrolment
from dstack_mesh.trust.roster.picture import Belonging, Picture
from dstack_mesh.trust.roster.statement import Admit, Revoke
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.renewal import Renewal, say_switched
from dstack_mesh.wire.roster import (
    open_book,
    open_keeper,
    own_scribe,
    scribe_of,
)
from dstack_mesh.wire.rotation import next_keys, replace_key, revoke_retired, take_keys, unsaid
from support.inviting import admin_of, invited
from support.mesh_agent import MeshAgent, mesh_agent
from support.meshes import Mesh, member
from support.rotating import STEPS, exchange, rotate

pytestmark = pytest.mark.usefixtures("no_multicast")


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.founded(tmp_path / "root")


def live(picture: Picture, name: str = "ann") -> dict[PeerId, Role]:
    """The keys that count under a name, and as what."""
    return {
        one.peer_id: one.role
        for one in picture.members.values()
        if one.name == name and one.belonging is Belonging.MEMBER
    }


def keeper_of(agent: MeshAgent) -> Picture:
    assert agent.members.keeper is not None
    return agent.members.keeper.picture


async def killed(home: Home, root: MeshAgent, step: str) -> None:
    """A process takes a new key, revoking the old one at once, and is killed after that step."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.rotating",
        str(home.root),
        root.card.peer_id,
        root.address,
        step,
        "now",
        cwd=Path(__file__).parents[1],
    )
    assert await process.wait() == -signal.SIGKILL


async def test_an_admin_takes_new_keys_and_governs_and_invites_with_them_alone(
    mesh: Mesh, tmp_path: Path
) -> None:
    ann, early, late = (
        await admin_of(mesh.root, tmp_path / "ann", "ann"),
        *map(Home, (tmp_path / "e", tmp_path / "l")),
    )
    before, signing = member(ann), issuer_of_home(ann)
    assert signing is not None
    await invited(ann, early, Role.RUNNER, "early")
    async with mesh_agent(mesh.root, "root") as root:
        await rotate(ann, root.card.peer_id, root.address)
        after, turned = member(ann), issuer_of_home(ann)
        assert turned is not None and turned.key_id != signing.key_id
        # The old key is no admin's from this moment on, and a member's until its overlap ends.
        assert live(keeper_of(root)) == {before.peer_id: Role.RUNNER, after.peer_id: Role.ADMIN}
        assert keeper_of(root).issues(after.peer_id)
        assert not keeper_of(root).issues(before.peer_id)
        # What the old key said by then stands, and what it would say now does not.
        assert live(keeper_of(root), "early") == {member(early).peer_id: Role.RUNNER}
        await invited(ann, late, Role.RUNNER, "late")
        picture = open_book(ann, after.mesh_id).read().picture
        assert picture.members[member(late).peer_id].admitted_by == after.peer_id
        assert picture.honours(signing.key_id, member(early).peer_id)
        assert not picture.honours(signing.key_id, PeerId("x" * 32))
        keeper = root.members.keeper
        assert keeper is not None
        assert await revoke_retired(mesh.root, keeper, datetime.now(UTC) + OVERLAP) == [
            before.peer_id
        ]
        assert live(keeper.picture) == {after.peer_id: Role.ADMIN}
        assert live(keeper.picture, "early")


async def test_what_the_old_key_says_after_the_new_one_spoke_counts_nowhere(
    mesh: Mesh, tmp_path: Path
) -> None:
    ann, ws = await admin_of(mesh.root, tmp_path / "ann", "ann"), Home(tmp_path / "ws")
    await invited(mesh.root, ws, Role.RUNNER, "ws")
    scribe = own_scribe(ann, member(ann))
    async with mesh_agent(mesh.root, "root") as root:
        await rotate(ann, root.card.peer_id, root.address)
        assert root.members.keeper is not None
        roster = open_book(ann, member(ann).mesh_id).read()
        said = scribe.write(roster, [Revoke(member(ws).peer_id)], datetime.now(UTC))
        await root.members.keeper.absorb([one.signed for one in said])
        assert keeper_of(root).belonging(member(ws).peer_id) is Belonging.MEMBER


@pytest.mark.parametrize("step", STEPS)
async def test_whoever_is_killed_while_it_takes_a_key_goes_on_and_ends_with_one(
    mesh: Mesh, tmp_path: Path, step: str
) -> None:
    ann = await admin_of(mesh.root, tmp_path / "ann", "ann")
    before = member(ann)
    async with mesh_agent(mesh.root, "root") as root:
        await killed(ann, root, step)
        assert len(live(keeper_of(root))) <= 2
        if step != "said":
            await rotate(ann, root.card.peer_id, root.address, at_once=True)
        after = member(ann)
        assert live(keeper_of(root)) == {after.peer_id: Role.ADMIN}
        assert keeper_of(root).belonging(before.peer_id) is Belonging.REVOKED
        assert keeper_of(root).issues(after.peer_id)
        assert Authority(ann).until(datetime.now(UTC)) > datetime.now(UTC) + timedelta(days=80)
        assert unsaid(ann) is None
        assert Retiring(mesh.root).all() == {}
        late = Home(tmp_path / "late")
        await invited(ann, late, Role.RUNNER, "late")


async def test_an_agent_that_is_started_with_the_new_key_says_so_itself(
    mesh: Mesh, tmp_path: Path
) -> None:
    ann = await admin_of(mesh.root, tmp_path / "ann", "ann")
    before = member(ann)
    async with mesh_agent(mesh.root, "root") as root:
        await killed(ann, root, "switched")
        channels, after = Channels(ann), member(ann)
        keeper = await exchange(ann, channels, root.card.peer_id, root.address)
        known = KnownAgent(root.card, (root.address,), "seed", "alive", None)
        renewal = Renewal(ann, keeper, channels, lambda: [known], SystemClock())
        await renewal.say(before)  # an agent that still runs with the old key says nothing
        assert len(live(keeper_of(root))) == 2
        await renewal.say(after)
        assert live(keeper_of(root)) == {after.peer_id: Role.ADMIN}
        assert unsaid(ann) is None
        await channels.close()


async def test_an_invitation_that_is_open_while_its_admins_key_ends_admits_nobody(
    mesh: Mesh, tmp_path: Path
) -> None:
    ann = await admin_of(mesh.root, tmp_path / "ann", "ann")
    keeper, scribe = open_keeper(ann, member(ann)), own_scribe(ann, member(ann))
    enrolment = Enrolment(keeper, scribe)
    async with mesh_agent(mesh.root, "root") as root:
        enrolment.check(PeerId("x" * 32))
        await rotate(ann, root.card.peer_id, root.address)
        await keeper.look()
        with pytest.raises(Forbidden):
            enrolment.check(PeerId("x" * 32))


async def test_a_promise_whose_key_was_never_admitted_revokes_nobody(
    mesh: Mesh, tmp_path: Path
) -> None:
    ann, now = await admin_of(mesh.root, tmp_path / "ann", "ann"), datetime.now(UTC)
    old = member(ann).peer_id
    # The root's agent was killed between the promise and the admission.
    Retiring(mesh.root).add(old, Promise(now + OVERLAP, PeerId("x" * 32)))
    async with mesh_agent(mesh.root, "root") as root:
        assert root.members.keeper is not None
        assert await revoke_retired(mesh.root, root.members.keeper, now + OVERLAP) == []
        assert live(keeper_of(root)) == {old: Role.ADMIN}
        Retiring(mesh.root).add(old, Promise(now + OVERLAP, PeerId("x" * 32)))
        await rotate(ann, root.card.peer_id, root.address, at_once=True)
        assert live(keeper_of(root)) == {member(ann).peer_id: Role.ADMIN}


async def test_a_replaced_key_takes_no_third_one_and_another_admin_replaces_none(
    mesh: Mesh, tmp_path: Path
) -> None:
    ann, bob = (
        await admin_of(mesh.root, tmp_path / "ann", "ann"),
        await admin_of(mesh.root, tmp_path / "bob", "ann"),
    )
    keeper, now = open_keeper(mesh.root, mesh.membership), datetime.now(UTC)
    who = Member(member(ann).peer_id, Role.ADMIN)
    keys = next_keys(ann)
    await replace_key(mesh.root, keeper, who, keys.request(), now)
    again = await replace_key(mesh.root, keeper, who, keys.request(), now)
    assert again.issuer_pem
    (ann.keys / "next-key.pem").unlink()
    (ann.keys / "next-issuer-key.pem").unlink()
    with pytest.raises(Refused) as refused:
        await replace_key(mesh.root, keeper, who, next_keys(ann).request(), now)
    assert refused.value.code == "key-replaced"
    other = Member(member(bob).peer_id, Role.ADMIN)
    with pytest.raises(Forbidden):
        await replace_key(ann, open_keeper(ann, member(ann)), other, next_keys(bob).request(), now)


async def test_the_root_takes_a_new_key_however_often_it_is_cut_off(
    mesh: Mesh, tmp_path: Path
) -> None:
    keeper, old, now = open_keeper(mesh.root, mesh.membership), mesh.membership, datetime.now(UTC)
    who = Member(old.peer_id, Role.ROOT)
    await replace_key(mesh.root, keeper, who, next_keys(mesh.root).request(), now)  # and is cut off
    keeper = open_keeper(mesh.root, old)
    keys = next_keys(mesh.root)
    granted = await replace_key(mesh.root, keeper, who, keys.request(), now)
    after = take_keys(mesh.root, old, keys, granted, at_once=True)  # and is cut off again
    assert live(keeper.picture, "root") == {old.peer_id: Role.ROOT, after.peer_id: Role.ROOT}
    keeper, waiting = open_keeper(mesh.root, after), unsaid(mesh.root)
    assert waiting is not None
    for _ in range(2):
        await say_switched(mesh.root, keeper, Channels(mesh.root), [], waiting, now)
    assert live(keeper.picture, "root") == {after.peer_id: Role.ROOT}


async def test_a_root_that_was_restored_from_its_file_takes_a_new_key_and_shuts_the_lost_one_out(
    mesh: Mesh, tmp_path: Path
) -> None:
    file, fresh, now = tmp_path / "file", Home(tmp_path / "fresh"), datetime.now(UTC)
    write_recovery(mesh.root, file, "correct horse battery")
    fresh.prepare()
    first = restore(fresh, file, "correct horse battery", now)
    known = open_book(mesh.root, mesh.membership.mesh_id).read().statements.values()
    open_book(fresh, first.mesh_id).add(known)
    keeper, scribe = open_keeper(fresh, first), scribe_of(fresh, first)
    facts = [Admit(first.peer_id, Role.ROOT, "root-2", "restore"), Revoke(mesh.membership.peer_id)]
    await keeper.issue(lambda roster: scribe.write(roster, facts, now))
    keys = next_keys(fresh)
    who = Member(first.peer_id, Role.ROOT)
    granted = await replace_key(fresh, keeper, who, keys.request(), now)
    after = take_keys(fresh, first, keys, granted, at_once=True)
    waiting = unsaid(fresh)
    assert waiting is not None
    await say_switched(fresh, keeper, Channels(fresh), [], waiting, now)
    assert live(keeper.picture, "root-2") == {after.peer_id: Role.ROOT}
    assert live(keeper.picture, "root") == {}
    late = Home(tmp_path / "late")
    assert (await invited(fresh, late, Role.ADMIN, "late")).mesh_id == mesh.membership.mesh_id
