"""Certificates over more than a year, played by the day: nobody has to invite anybody again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Refused
from dstack_mesh.home import Home
from dstack_mesh.identity import id_of_key, private_pem, public_der
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.authority import Authority, parse_request, request_of
from dstack_mesh.trust.membership import Role, issuer_key_path, issuer_path
from dstack_mesh.trust.renewing import issuer_of_home
from dstack_mesh.trust.roster.statement import AddAdmin, AddIssuer, Admit, RemoveIssuer
from dstack_mesh.wire.roster import record_founder
from support.meshes import Mesh, member
from support.played import Played, World
from support.saying import say

DAYS = 400
LIFE = timedelta(days=90)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The root's agent, an admin's, and a workstation."""
    now = datetime.now(UTC)
    mesh = Mesh.make(tmp_path / "root")
    record_founder(mesh.root, mesh.membership, "root", now)
    ann = mesh.admit(tmp_path / "ann", life=LIFE, role=Role.ADMIN)
    ws = mesh.admit(tmp_path / "ws", life=LIFE)
    key = ec.generate_private_key(ec.SECP256R1())
    write_durably(issuer_key_path(ann), private_pem(key))
    word = Authority(mesh.root).sign_issuer(parse_request(request_of(key)), now)
    write_durably(issuer_path(ann), word)
    own, signing = member(ann).peer_id, PeerId(id_of_key(public_der(key.public_key())))
    say(mesh, Admit(own, Role.RUNNER, "ann", "test", now + LIFE), AddAdmin(own))
    say(mesh, AddIssuer(signing, own))
    say(mesh, Admit(member(ws).peer_id, Role.RUNNER, "ws", "test", now + LIFE))
    return World(Played(now), {"root": mesh.root, "ann": ann, "ws": ws})


def last_day(home: Home) -> datetime:
    issuer = issuer_of_home(home)
    assert issuer is not None
    return issuer.not_after


async def test_an_admin_may_invite_after_400_days_if_the_roots_agent_runs_one_day_in_thirty(
    world: World,
) -> None:
    ann, renewals, issued = world.homes["ann"], dict.fromkeys(world.homes, 0), 0
    for day in range(DAYS):
        world.clock.day = day
        world.running = {"ann", "ws"} | ({"root"} if day % 30 == 0 else set[str]())
        await world.agree()
        before = last_day(ann)
        for name in sorted(world.running):
            renewals[name] += await world.look(name)
        issued += last_day(ann) != before
        assert all(map(world.holds, world.running)), f"day {day}"
        assert Authority(ann).until(world.clock.now()) > world.clock.now(), f"day {day}"
    statements = len(world.keepers["root"].roster.statements)
    print(f"{DAYS} days: renewals {renewals}, of the issuer {issued}; {statements} statements")
    assert issued in (1, 2)
    assert last_day(ann) > world.clock.start + timedelta(days=DAYS + 90)
    assert 5 <= renewals["ws"] <= 9
    assert statements < 30


async def test_without_the_roots_agent_an_admin_invites_for_a_year_and_then_is_told_why_not(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ann = world.homes["ann"]
    await world.agree()
    world.running = {"ann", "ws"}
    for day in range(0, 364, 7):
        world.clock.day = day
        await world.look("ann")
        assert Authority(ann).until(world.clock.now())
    assert "only an agent of the root's home renews that" in caplog.text
    world.clock.day = 366
    await world.look("ann")  # neither raises nor renews
    with pytest.raises(Refused) as expired:
        Authority(ann).until(world.clock.now())
    assert expired.value.code == "issuer-expired"
    assert "agent of the root's home" in expired.value.hint


async def test_a_voided_key_is_not_renewed_and_signs_nothing_more(
    world: World, tmp_path: Path
) -> None:
    ann, root = world.homes["ann"], world.homes["root"]
    issuer = issuer_of_home(ann)
    assert issuer is not None
    say(Mesh(root, member(root)), RemoveIssuer(issuer.key_id))
    await world.keepers["root"].look()
    await world.agree()
    world.clock.day = 80
    assert await world.look("ann")  # at the root's agent, not by its own key
    assert len(world.certificates("ann")) == 1
    world.clock.day = 300
    await world.look("root")
    await world.look("ann")
    assert last_day(ann) == issuer.not_after
