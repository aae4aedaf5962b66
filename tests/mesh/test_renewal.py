"""Certificates renew themselves in time, at an agent that may sign, and for members only."""

import asyncio
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Damaged, Forbidden, Invalid, Refused
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.authority import make_request, to_pem
from dstack_mesh.trust.membership import RENEW_EARLIEST, RENEW_LATEST, Membership, Role
from dstack_mesh.trust.renewing import Granted, accept
from dstack_mesh.trust.roster.statement import Admit, Revoke, Sealed
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire import renewal as renewing
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.renewal import Renewal, ask_to_renew
from dstack_mesh.wire.roster import RosterClient, open_keeper
from support.mesh_agent import MeshAgent, mesh_agent
from support.meshes import Mesh, OffClock, member
from support.rosters import peer
from support.saying import say

LIFE = timedelta(days=90)
OLD = datetime.now(UTC) - LIFE * 0.85
"""When a certificate was made that is past its renewal and still holds."""


def known(agent: MeshAgent) -> KnownAgent:
    return KnownAgent(agent.card, (agent.address,), "seed", "alive", None)


def old_member(mesh: Mesh, folder: Path, name: str = "ws") -> Home:
    home = mesh.admit(folder / name, born=OLD, life=LIFE, role=Role.RUNNER)
    say(mesh, Admit(member(home).peer_id, Role.SUBMITTER, name, "test"))
    return home


def renewal(home: Home, agent: MeshAgent, channels: Channels) -> Renewal:
    keeper = open_keeper(home, member(home))
    return Renewal(home, keeper, channels, lambda: [known(agent)], SystemClock())


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.founded(tmp_path / "root")


async def learned(home: Home, agent: MeshAgent, channels: Channels) -> None:
    keeper = open_keeper(home, member(home))
    await RosterClient(channels.to_peer(agent.card.peer_id, agent.address), "root").exchange(keeper)


async def test_a_certificate_is_renewed_at_an_agent_that_may_sign(
    tmp_path: Path, mesh: Mesh
) -> None:
    home = old_member(mesh, tmp_path)
    before = member(home)
    async with mesh_agent(mesh.root, "root") as agent:
        channels = Channels(home)
        await learned(home, agent, channels)
        assert await renewal(home, agent, channels).look()
        after = member(home)
        assert after.not_after > before.not_after + LIFE * 0.8
        assert after.peer_id == before.peer_id
        channel = channels.to_peer(agent.card.peer_id, agent.address)
        await ask_to_renew(channel, "root", home, after)  # by the new certificate
        enrolled = agent.members.picture().members[after.peer_id]
        assert (enrolled.through, enrolled.name, enrolled.role) == ("renewal", "ws", Role.SUBMITTER)
        assert not await renewal(home, agent, channels).look()
        await channels.close()


async def test_whoever_asks_again_and_again_does_not_fill_the_roster(
    tmp_path: Path, mesh: Mesh
) -> None:
    home = old_member(mesh, tmp_path)
    async with mesh_agent(mesh.root, "root") as agent:
        channels = Channels(home)
        channel = channels.to_peer(agent.card.peer_id, agent.address)
        before = member(home)
        for _ in range(5):
            renewed = await ask_to_renew(channel, "root", home, before)
            assert renewed.not_after > before.not_after
        assert agent.members.keeper is not None
        about = [one for one in agent.members.keeper.missing_since({}) if _admits(one, before)]
        assert len(about) == 2  # as it joined, and as it was renewed
        await channels.close()


def _admits(one: Sealed, membership: Membership) -> bool:
    fact = one.statement.fact
    return isinstance(fact, Admit) and fact.subject == membership.peer_id


async def test_the_role_in_a_new_certificate_is_the_rosters(tmp_path: Path, mesh: Mesh) -> None:
    home = old_member(mesh, tmp_path)
    async with mesh_agent(mesh.root, "root") as agent:
        channels = Channels(home)
        await learned(home, agent, channels)
        await renewal(home, agent, channels).look()
        await channels.close()
    leaf = x509.load_pem_x509_certificate(member(home).certificate_path.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert any(
        uri.endswith("/r/submit")
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier)
    )


async def test_a_port_shows_the_new_certificate_without_a_restart(
    tmp_path: Path, mesh: Mesh
) -> None:
    home = old_member(mesh, tmp_path)
    async with mesh_agent(mesh.root, "root") as agent, mesh_agent(home, "ws") as ours:
        channels = Channels(home)
        await learned(home, agent, channels)

        def shown() -> datetime:
            pem = ssl.get_server_certificate(("127.0.0.1", ours.port))
            return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc

        assert await asyncio.to_thread(shown) == member(home).not_after
        old = member(home).not_after
        assert await renewal(home, agent, channels).look()
        assert await asyncio.to_thread(shown) == member(home).not_after > old
        await channels.close()


async def test_nobody_renews_for_another_key_or_after_a_revocation(
    tmp_path: Path, mesh: Mesh
) -> None:
    home, other = old_member(mesh, tmp_path), Identity.load_or_make(Home(tmp_path / "other"))
    async with mesh_agent(mesh.root, "root") as agent:
        channels = Channels(home)
        channel = channels.to_peer(agent.card.peer_id, agent.address)
        request = pb.RenewRequest(certificate_request=make_request(other))
        with pytest.raises(Invalid), translated("root"):
            await rpc.RosterServiceStub(channel).Renew(request, timeout=5)
        assert agent.members.keeper is not None
        say(mesh, Revoke(member(home).peer_id))
        await agent.members.keeper.look()
        with pytest.raises(Forbidden):
            await ask_to_renew(channel, "root", home, member(home))
        await channels.close()


async def test_an_admin_that_cannot_write_its_roster_asks_others(
    tmp_path: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = old_member(mesh, tmp_path)

    async def full(*_: object) -> Membership:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(renewing, "renew_ourselves", full)
    monkeypatch.setattr(renewing, "can_invite", lambda home: True)  # type: ignore[misc]
    async with mesh_agent(mesh.root, "root") as agent:
        channels = Channels(home)
        await learned(home, agent, channels)
        assert await renewal(home, agent, channels).look()
        assert "No space left" in caplog.text
        monkeypatch.setattr(renewing, "ask_to_renew", full)
        late = member(home)
        assert not await Renewal(
            home, open_keeper(home, late), channels, lambda: [known(agent)], OffClock(LIFE * 0.85)
        ).look()
        await channels.close()


async def test_an_agent_without_a_signing_key_says_so(tmp_path: Path, mesh: Mesh) -> None:
    one, two = old_member(mesh, tmp_path, "one"), old_member(mesh, tmp_path, "two")
    async with mesh_agent(one, "one") as agent:
        channels = Channels(two)
        channel = channels.to_peer(agent.card.peer_id, agent.address)
        with pytest.raises(Refused) as refused:
            await ask_to_renew(channel, "one", two, member(two))
        assert refused.value.code == "cannot-invite"
        await channels.close()


async def test_the_home_that_holds_the_key_renews_its_own(tmp_path: Path, mesh: Mesh) -> None:
    keeper, channels = open_keeper(mesh.root, mesh.membership), Channels(mesh.root)
    late = OffClock(timedelta(days=80))
    assert await Renewal(mesh.root, keeper, channels, lambda: [], late).look()
    assert member(mesh.root).not_after > mesh.membership.not_after
    assert keeper.picture.members[mesh.membership.peer_id].role is Role.ROOT
    await channels.close()


def test_a_certificate_of_another_mesh_or_for_another_key_is_not_taken(
    tmp_path: Path, mesh: Mesh
) -> None:
    home, other = old_member(mesh, tmp_path), Mesh.make(tmp_path / "other")
    key = Identity.load_or_make(home).private_key().public_key()
    foreign, wrong_key = (
        other.sign(key),
        mesh.sign(Identity.load_or_make(Home(tmp_path / "x")).private_key().public_key()),
    )
    for leaf in (foreign, wrong_key):
        with pytest.raises(Damaged):
            accept(home, member(home), Granted(to_pem(leaf)))
    assert accept(home, member(home), Granted(to_pem(mesh.sign(key)))) == member(home)


def test_members_that_joined_on_one_day_renew_on_many(tmp_path: Path, mesh: Mesh) -> None:
    shares: list[float] = []
    for number in range(200):
        one = replace(mesh.membership, peer_id=peer(f"p{number}"))
        life = one.not_after - one.not_before
        shares.append((one.renewed_at - one.not_before) / life)
    assert RENEW_EARLIEST <= min(shares) < 0.55 and 0.75 < max(shares) <= RENEW_LATEST
