"""Meshes and peers made at once, without a network: real keys, real certificates."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.card import PeerCard
from dstack_mesh.clock import SystemClock
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, read_private_key
from dstack_mesh.ids import Address
from dstack_mesh.trust.authority import create_mesh, sign_leaf, to_pem
from dstack_mesh.trust.membership import Membership, Role, root_key_path
from dstack_mesh.wire.roster import record_founder


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh whose root is in one home."""

    root: Home
    membership: Membership

    @classmethod
    def make(cls, folder: Path, name: str = "lab") -> "Mesh":
        home = Home(folder)
        return cls(home, create_mesh(home, name, datetime.now(UTC)))

    @classmethod
    def founded(cls, folder: Path) -> "Mesh":
        """One whose roster begins with its root, as `dstack mesh create` leaves it."""
        made = cls.make(folder)
        record_founder(made.root, made.membership, "root", datetime.now(UTC))
        return made

    def admit(
        self,
        folder: Path,
        born: datetime | None = None,
        life: timedelta = timedelta(days=1),
        role: Role = Role.RUNNER,
    ) -> Home:
        """A home that is a member, with a certificate made at `born`."""
        home = Home(folder)
        identity = Identity.load_or_make(home)
        leaf = self.sign(identity.private_key().public_key(), born, life, role)
        membership = Membership(
            mesh_id=self.membership.mesh_id,
            mesh_name=self.membership.mesh_name,
            role=role,
            peer_id=identity.peer_id,
            discovery_key=self.membership.discovery_key,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            folder=home.keys,
        )
        membership.store(home, to_pem(leaf), self.membership.root_path.read_bytes())
        return home

    def sign(
        self,
        key: ec.EllipticCurvePublicKey,
        born: datetime | None = None,
        life: timedelta = timedelta(days=1),
        role: Role = Role.RUNNER,
    ) -> x509.Certificate:
        """A member's certificate for a key."""
        root = x509.load_pem_x509_certificate(self.membership.root_path.read_bytes())
        root_key = read_private_key(root_key_path(self.root))
        return sign_leaf(root_key, root, key, born or datetime.now(UTC), life, role=role)


def member(home: Home) -> Membership:
    """The membership that a home must have."""
    membership = Membership.load(home)
    assert membership is not None
    return membership


def card_of(home: Home, name: str, addresses: tuple[str, ...] = (), agent: bool = True) -> PeerCard:
    """A peer's card."""
    known = member(home)
    return PeerCard(
        known.peer_id, known.mesh_id, name, tuple(map(Address, addresses)), "0.1.0", agent
    )


class OffClock(SystemClock):
    """A clock that is off by some time."""

    def __init__(self, off: timedelta) -> None:
        self.off = off

    def now(self) -> datetime:
        return super().now() + self.off
