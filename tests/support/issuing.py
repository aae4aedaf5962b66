"""Certificates by admins' own keys, and who shows them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.faults import Forbidden, MeshError
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, public_der, read_private_key
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.authority import sign_leaf, to_pem
from dstack_mesh.trust.membership import Role, issuer_key_path, issuer_path
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.membership import MembershipClient
from dstack_mesh.wire.roster import open_book
from support.mesh_agent import MeshAgent
from support.meshes import Mesh, card_of, member


def issuer_key(home: Home) -> ec.EllipticCurvePrivateKey:
    return read_private_key(issuer_key_path(home))


def issuer_id(home: Home) -> PeerId:
    return PeerId(id_of_key(public_der(issuer_key(home).public_key())))


def issuer_certificate(home: Home) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issuer_path(home).read_bytes())


def with_leaf(mesh: Mesh, admin: Home, folder: Path, role: Role = Role.RUNNER) -> Home:
    """A home of which no roster speaks, with a certificate that the admin's key signed."""
    home = mesh.admit(folder)
    key, certificate = issuer_key(admin), issuer_certificate(admin)
    public = Identity.load_or_make(home).private_key().public_key()
    leaf = sign_leaf(key, certificate, public, datetime.now(UTC), timedelta(days=1), role=role)
    shows(home, leaf, certificate)
    return home


def shows(home: Home, *certificates: x509.Certificate) -> None:
    member(home).certificate_path.write_bytes(b"".join(map(to_pem, certificates)))


async def hello(home: Home, agent: MeshAgent) -> str:
    channels = Channels(home)
    try:
        channel = channels.to_peer(agent.card.peer_id, agent.address)
        card = card_of(home, "caller", (), agent=False)
        return (await MembershipClient(channel, "agent").hello(card)).card.name
    finally:
        await channels.close()


async def looks(agent: MeshAgent) -> None:
    assert agent.members.keeper is not None
    await agent.members.keeper.look()


async def refused(home: Home, agent: MeshAgent) -> str:
    with pytest.raises(Forbidden) as failed:
        await hello(home, agent)
    return failed.value.code


def error_in(group: BaseException) -> MeshError:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    assert isinstance(group, MeshError)
    return group


def learn(mesh: Mesh, of: Home) -> None:
    """The root's home learns what another one knows."""
    mesh_id = mesh.membership.mesh_id
    open_book(mesh.root, mesh_id).add(open_book(of, mesh_id).read().statements.values())


@asynccontextmanager
async def channel_to(agent: MeshAgent, home: Home) -> AsyncGenerator[grpc.aio.Channel]:
    channels = Channels(home)
    yield channels.to_peer(agent.card.peer_id, agent.address)
    await channels.close()
