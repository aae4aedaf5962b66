"""Admins that invite: whom they let in, over real TLS, and what is left when they may no more."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dstack_mesh.faults import Forbidden, Refused, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.trust.authority import LEAF_LIFE, Authority, make_request, sign_issuer, sign_leaf
from dstack_mesh.trust.membership import (
    Role,
    can_invite,
    holds_root,
    issuer_key_path,
    issuer_path,
    leave,
)
from dstack_mesh.trust.roster.book import read_picture
from dstack_mesh.trust.roster.picture import Belonging
from dstack_mesh.trust.roster.statement import RemoveAdmin, RemoveIssuer, Revoke
from dstack_mesh.v1 import auction_pb2, auction_pb2_grpc
from dstack_mesh.v1.roster_pb2 import RenewRequest
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.renewal import Renewal, ask_to_renew, renew
from dstack_mesh.wire.roster import RosterClient, open_book, open_keeper
from support.inviting import admin_of, invited
from support.issuing import (
    channel_to,
    error_in,
    hello,
    issuer_certificate,
    issuer_id,
    issuer_key,
    learn,
    looks,
    refused,
    shows,
    with_leaf,
)
from support.mesh_agent import mesh_agent
from support.meshes import Mesh, OffClock, member
from support.saying import say

pytestmark = pytest.mark.usefixtures("no_multicast")


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.founded(tmp_path / "root")


async def test_an_admin_that_the_root_invites_gets_a_key_to_sign_with(
    mesh: Mesh, tmp_path: Path
) -> None:
    home = Home(tmp_path / "ann")
    joined = await invited(mesh.root, home, Role.ADMIN)
    assert joined.role is Role.ADMIN
    assert can_invite(home) and not holds_root(home)
    picture = read_picture(mesh.root, mesh.membership.mesh_id)
    assert picture.admins == {joined.peer_id}
    assert picture.issuers == {issuer_id(home): joined.peer_id}
    assert read_picture(home, joined.mesh_id) == picture
    basic = issuer_certificate(home).extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value) == (True, x509.BasicConstraints(True, 0))
    assert issuer_key_path(home).stat().st_mode & 0o777 == 0o600
    leave(home)
    assert not issuer_key_path(home).exists() and not issuer_path(home).exists()


@pytest.mark.parametrize("role", [Role.READER, Role.SUBMITTER, Role.RUNNER])
async def test_whom_an_admin_invites_is_heard_and_served_over_tls_both_ways(
    mesh: Mesh, tmp_path: Path, role: Role
) -> None:
    admin, ws = await admin_of(mesh.root, tmp_path / "ann"), Home(tmp_path / "ws")
    joined = await invited(admin, ws, role)
    assert joined.role is role
    shown = x509.load_pem_x509_certificates(joined.certificate_path.read_bytes())
    assert len(shown) == 2
    async with mesh_agent(mesh.root, "root") as root, mesh_agent(ws, "ws") as ours:
        assert await hello(ws, root) == "root"
        assert await hello(mesh.root, ours) == "ws"
        channels = Channels(ws)
        channel = channels.to_peer(root.card.peer_id, root.address)
        await RosterClient(channel, "root").exchange(open_keeper(ws, joined))
        await channels.close()
        enrolled = root.members.picture().members[joined.peer_id]
        assert (enrolled.role, enrolled.belonging) == (role, Belonging.MEMBER)
        assert enrolled.admitted_by == member(admin).peer_id


async def test_an_admin_invites_no_admin_and_who_was_one_invites_nobody(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin = await admin_of(mesh.root, tmp_path / "ann")
    with pytest.raises(BaseExceptionGroup) as group:
        await invited(admin, Home(tmp_path / "bob"), Role.ADMIN)
    assert error_in(group.value).code == "not-an-admin"
    known = member(admin)
    said = say(mesh, RemoveAdmin(known.peer_id, 0, b""))
    open_book(admin, known.mesh_id).add(said.statements.values())
    with pytest.raises(BaseExceptionGroup) as group:
        await invited(admin, Home(tmp_path / "bob"), Role.RUNNER)
    assert error_in(group.value).code == "not-an-admin"
    with pytest.raises(BaseExceptionGroup) as group:
        await invited(mesh.root, admin, Role.ADMIN)
    assert error_in(group.value).code == "was-an-admin"


async def test_a_leaf_of_a_live_issuer_is_heard_though_its_admission_is_not_known(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin = await admin_of(mesh.root, tmp_path / "ann")
    home = with_leaf(mesh, admin, tmp_path / "ws")
    async with mesh_agent(mesh.root, "root") as root:
        assert root.members.picture().belonging(member(home).peer_id) is None
        assert await hello(home, root) == "root"


async def test_a_leaf_of_a_removed_issuer_is_refused_whoever_shows_it(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin, known = await admin_of(mesh.root, tmp_path / "ann"), Home(tmp_path / "known")
    unknown = with_leaf(mesh, admin, tmp_path / "unknown")
    await invited(admin, known, Role.RUNNER)
    learn(mesh, admin)
    async with mesh_agent(mesh.root, "root") as root:
        for home in (unknown, known):
            assert await hello(home, root) == "root"
        say(mesh, RemoveIssuer(issuer_id(admin)))
        await looks(root)
        for home in (unknown, known):
            assert await refused(home, root) == "issuer-removed"


async def test_what_an_issuer_signed_past_its_admins_limit_is_refused_and_before_it_stands(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin, early, late = (Home(tmp_path / name) for name in ("ann", "early", "late"))
    await invited(mesh.root, admin, Role.ADMIN)
    await invited(admin, early, Role.RUNNER)
    learn(mesh, admin)
    book = open_book(mesh.root, mesh.membership.mesh_id)
    tip = book.read().chains[member(admin).peer_id].tip
    assert tip is not None
    await invited(admin, late, Role.RUNNER)
    learn(mesh, admin)
    silent = with_leaf(mesh, admin, tmp_path / "silent")
    async with mesh_agent(mesh.root, "root") as root:
        for home in (early, late, silent):
            assert await hello(home, root) == "root"
        removal = RemoveAdmin(member(admin).peer_id, tip.statement.seq, tip.digest)
        say(mesh, removal, Revoke(member(admin).peer_id))
        await looks(root)
        assert await hello(early, root) == "root"
        for home in (late, silent):
            assert await refused(home, root) == "issuer-removed"
        assert await refused(admin, root) == "revoked"


async def test_nothing_shown_beside_it_makes_a_removed_issuers_leaf_another_ones(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin = await admin_of(mesh.root, tmp_path / "ann")
    other = await admin_of(mesh.root, tmp_path / "bob")
    home = with_leaf(mesh, admin, tmp_path / "ws")
    leaf = x509.load_pem_x509_certificate(member(home).certificate_path.read_bytes())
    issuer, live = issuer_certificate(admin), issuer_certificate(other)
    root = x509.load_pem_x509_certificate(mesh.membership.root_path.read_bytes())
    twin = self_signed(issuer_key(admin), issuer.subject)
    namesake = self_signed(ec.generate_private_key(ec.SECP256R1()), issuer.subject)
    say(mesh, RemoveIssuer(issuer_id(admin)))
    async with mesh_agent(mesh.root, "root") as agent:
        for beside in (
            (issuer, root),
            (live, issuer),
            (issuer, live),
            (twin, issuer),
            (namesake, issuer),
            (issuer, twin, namesake),
        ):
            shows(home, leaf, *beside)
            with pytest.raises((Forbidden, Unreachable)) as failed:
                await hello(home, agent)
            assert failed.value.code in ("issuer-removed", "unreachable", "not-that-peer", "")
        shows(home, leaf, issuer, *[live] * 20)
        with pytest.raises((Forbidden, Unreachable)):
            await hello(home, agent)


def self_signed(key: ec.EllipticCurvePrivateKey, name: x509.Name) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    builder = builder.subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.not_valid_before(now - timedelta(hours=1))
    builder = builder.not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(True, 1), critical=True)
    return builder.sign(key, hashes.SHA256())


async def test_a_leaf_that_hides_who_signed_it_is_known_by_its_signature(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin = await admin_of(mesh.root, tmp_path / "ann")
    home, issuer = mesh.admit(tmp_path / "ws"), issuer_certificate(admin)
    key = Identity.load_or_make(home).private_key()
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    bare = x509.CertificateBuilder().serial_number(7).subject_name(name).issuer_name(issuer.subject)
    bare = bare.public_key(key.public_key()).not_valid_before(now - timedelta(hours=1))
    bare = bare.not_valid_after(now + timedelta(days=1))
    mesh_id, peer_id = member(home).mesh_id, member(home).peer_id
    names = (f"mesh://{mesh_id}/n/{peer_id}", f"mesh://{mesh_id}/r/{Role.RUNNER.right}")
    uris = map(x509.UniformResourceIdentifier, names)
    named = x509.SubjectAlternativeName([x509.DNSName("mesh"), *uris])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    bare = bare.add_extension(named, critical=False).add_extension(usage, critical=False)
    bare = bare.add_extension(x509.BasicConstraints(False, None), critical=True)
    leaf = bare.sign(issuer_key(admin), hashes.SHA256())
    shows(home, leaf, issuer)
    say(mesh, RemoveIssuer(issuer_id(admin)))
    async with mesh_agent(mesh.root, "root") as agent:
        assert await refused(home, agent) == "issuer-removed"


async def test_an_issuer_makes_no_issuer(mesh: Mesh, tmp_path: Path) -> None:
    admin = await admin_of(mesh.root, tmp_path / "ann")
    home = mesh.admit(tmp_path / "ws")
    second = ec.generate_private_key(ec.SECP256R1())
    above = issuer_certificate(admin)
    now = datetime.now(UTC)
    below = sign_issuer(issuer_key(admin), above, second.public_key(), now)
    public = Identity.load_or_make(home).private_key().public_key()
    shows(home, sign_leaf(second, below, public, now, role=Role.RUNNER), below, above)
    async with mesh_agent(mesh.root, "root") as root:
        with pytest.raises(Unreachable):
            await hello(home, root)
    with pytest.raises(Refused):
        Authority(admin).sign_issuer(request_for(second), now)


def request_for(key: ec.EllipticCurvePrivateKey) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256())


class Auction(auction_pb2_grpc.AuctionServiceServicer):
    """Answers asks with nothing."""

    async def Ask(self, request: Any, context: Any) -> auction_pb2.AskResponse:
        return auction_pb2.AskResponse()

    async def Reserve(self, request: Any, context: Any) -> auction_pb2.ReserveResponse:
        return auction_pb2.ReserveResponse()

    async def Commit(self, request: Any, context: Any) -> auction_pb2.CommitResponse:
        return auction_pb2.CommitResponse()

    async def Release(self, request: Any, context: Any) -> auction_pb2.ReleaseResponse:
        return auction_pb2.ReleaseResponse()


@pytest.mark.parametrize(
    ("named", "may_ask"),
    [(Role.ROOT, False), (Role.ADMIN, False), (Role.RUNNER, True), (Role.READER, False)],
)
async def test_an_issuer_names_nobody_admin_or_root(
    mesh: Mesh, tmp_path: Path, named: Role, may_ask: bool
) -> None:
    admin = await admin_of(mesh.root, tmp_path / "ann")
    home = with_leaf(mesh, admin, tmp_path / "ws", named)

    def serve(server: grpc.aio.Server) -> None:
        auction_pb2_grpc.add_AuctionServiceServicer_to_server(Auction(), server)

    async with mesh_agent(mesh.root, "root", serve=serve) as root:
        channels = Channels(home)
        channel = channels.to_peer(root.card.peer_id, root.address)
        ask = auction_pb2_grpc.AuctionServiceStub(channel).Ask
        if may_ask:
            await ask(auction_pb2.AskRequest(), timeout=5)
        else:
            with pytest.raises(Forbidden), translated("root"):
                await ask(auction_pb2.AskRequest(), timeout=5)
        await channels.close()


async def test_open_calls_of_a_removed_issuers_leaf_end_at_once(mesh: Mesh, tmp_path: Path) -> None:
    admin = await admin_of(mesh.root, tmp_path / "ann")
    home = with_leaf(mesh, admin, tmp_path / "ws")
    async with mesh_agent(mesh.root, "root") as root:
        channels = Channels(home)
        channel = channels.to_peer(root.card.peer_id, root.address)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        say(mesh, RemoveIssuer(issuer_id(admin)))
        await looks(root)
        with pytest.raises(Forbidden) as ended, translated("root"):
            async with asyncio.timeout(5):
                await watch.read()
        assert ended.value.code == "issuer-removed"
        await channels.close()


async def test_certificates_are_renewed_at_an_admins_agent_and_by_itself(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin, ws = await admin_of(mesh.root, tmp_path / "ann"), Home(tmp_path / "ws")
    await invited(mesh.root, ws, Role.RUNNER)
    open_book(admin, member(ws).mesh_id).add(
        open_book(mesh.root, member(ws).mesh_id).read().statements.values()
    )
    async with mesh_agent(admin, "ann") as agent:
        async with channel_to(agent, ws) as channel:
            await ask_to_renew(channel, "ann", ws, member(ws))
        assert len(x509.load_pem_x509_certificates(member(ws).certificate_path.read_bytes())) == 2
        assert await hello(ws, agent) == "ann"
        # Noted once the certificate that the roster knows is past half.
        assert agent.members.keeper is not None
        who = Member(member(ws).peer_id, Role.RUNNER)
        request = RenewRequest(certificate_request=make_request(Identity.load_or_make(ws)))
        later = datetime.now(UTC) + LEAF_LIFE * 0.6
        await renew(admin, agent.members.keeper, who, request, later)
        enrolled = agent.members.picture().members[member(ws).peer_id]
        assert (enrolled.through, enrolled.role) == ("renewal", Role.RUNNER)
        assert enrolled.admitted_by == member(admin).peer_id
        keeper = open_keeper(admin, member(admin))
        late = OffClock(LEAF_LIFE * 0.85)
        before = member(admin)
        channels = Channels(admin)
        assert await Renewal(admin, keeper, channels, lambda: [], late).look()
        await channels.close()
        assert member(admin).not_after > before.not_after
        shown = x509.load_pem_x509_certificates(member(admin).certificate_path.read_bytes())
        assert [one.issuer for one in shown] == [
            issuer_certificate(admin).subject,
            issuer_certificate(admin).issuer,
        ]


async def test_an_issuer_signs_nothing_that_outlives_it_and_nothing_after_its_end(
    mesh: Mesh, tmp_path: Path
) -> None:
    admin = await admin_of(mesh.root, tmp_path / "ann")
    last = issuer_certificate(admin).not_valid_after_utc
    authority = Authority(admin)
    assert authority.until(last - timedelta(days=3)) == last
    with pytest.raises(Refused) as expired:
        authority.until(last)
    assert expired.value.code == "issuer-expired"
