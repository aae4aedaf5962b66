"""What a home knows of its mesh: a small JSON file beside PEM files, readable without cryptography.

The JSON file is written last, so a home is a member wholly or not at all.
"""

import hashlib
import json
from dataclasses import field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.trust.switching import UNSAID, finish_switch

NOT_A_MEMBER_HINT = (
    "Join with `dstack mesh join CODE`, or make a mesh with `dstack mesh create NAME`."
)


RENEW_EARLIEST, RENEW_LATEST = 0.5, 0.8
"""Shares of a certificate's life between which it is renewed."""


class Role(Enum):
    """What a member was invited as."""

    READER = "reader"
    SUBMITTER = "submitter"
    RUNNER = "runner"
    ADMIN = "admin"
    ROOT = "root"

    @property
    def right(self) -> str:
        """What a member of this role may do, in one word: a certificate says it."""
        return _RIGHTS[self.value]


_RIGHTS = {
    "reader": "read",
    "submitter": "submit",
    "runner": "run",
    "admin": "admit",
    "root": "invite",
}


@frozen
class Membership:
    """A home's place in a mesh.

    Attributes:
        mesh_id: Hash of the mesh's root key.
        mesh_name: What people call it; in no certificate.
        role: What this home was invited as; ROOT where the mesh was made.
        peer_id: This home's own id.
        discovery_key: Members recognise each other's announcements by it.
        not_before: From when this home's certificate holds.
        not_after: Until when.
        folder: Where the PEM files are.
        seeds: Addresses of agents that the inviter knew.
    """

    mesh_id: MeshId
    mesh_name: str
    role: Role
    peer_id: PeerId
    discovery_key: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    folder: Path
    seeds: tuple[Address, ...] = ()

    @property
    def key_path(self) -> Path:
        return self.folder / "key.pem"

    @property
    def certificate_path(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def root_path(self) -> Path:
        return self.folder / "root.pem"

    @property
    def renewed_at(self) -> datetime:
        """When the certificate is to be renewed: by chance, and always the same for one.

        Members that joined on one day do not all ask on one day.
        """
        return renewed_at(self.peer_id, self.not_before, self.not_after)

    @classmethod
    def load(cls, home: Home) -> "Membership | None":
        """The membership of this home, or None if it joined no mesh. Raises Damaged."""
        finish_switch(home)
        path = _file(home)
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        try:
            return _parse(json.loads(text), home.keys)
        except (ValueError, KeyError, TypeError) as broken:
            raise Damaged(
                "What this home knows of its mesh cannot be read.",
                f"{path}: {broken!r}",
                "Leave with `dstack mesh leave` and join again.",
            ) from broken

    @classmethod
    def require(cls, home: Home) -> "Membership":
        """The same, where only a member can go on. Raises Refused."""
        membership = cls.load(home)
        if membership is None:
            raise Refused(
                "This home is not a member of a mesh.",
                f"There is no {_file(home)}.",
                NOT_A_MEMBER_HINT,
                code="not-a-member",
            )
        return membership

    def store(self, home: Home, certificate_pem: bytes, root_pem: bytes) -> None:
        """Writes everything down, durably, the JSON file last."""
        write_durably(self.certificate_path, certificate_pem)
        write_durably(self.root_path, root_pem)
        write_durably(_file(home), json.dumps(fields_of(self), indent=2).encode())

    def check_valid(self, now: datetime) -> None:
        """Says early what TLS would only hint at. Raises Refused outside the certificate's time."""
        if now < self.not_before:
            raise Refused(
                "This home's certificate is not valid yet.",
                f"It holds from {self.not_before:%Y-%m-%d %H:%M} UTC and this machine's clock says "
                f"{now:%Y-%m-%d %H:%M} UTC.",
                "Set this machine's clock; it is probably off.",
                code="certificate-not-yet-valid",
            )
        if now > self.not_after:
            raise Refused(
                "This home's certificate expired.",
                f"It held until {self.not_after:%Y-%m-%d %H:%M} UTC and this machine's clock says "
                f"{now:%Y-%m-%d %H:%M} UTC.",
                "If the clock is right, join again: `dstack mesh invite` on a machine that may "
                "invite, then `dstack mesh join CODE` here.",
                code="certificate-expired",
            )


def renewed_at(of: str, not_before: datetime, not_after: datetime) -> datetime:
    """When a certificate is to be renewed, by a chance that is the same each time it is asked."""
    said = f"{of} {not_before.isoformat()}"
    chance = int.from_bytes(hashlib.sha256(said.encode()).digest()[:4], "big") / 2**32
    life = not_after - not_before
    return not_before + life * (RENEW_EARLIEST + (RENEW_LATEST - RENEW_EARLIEST) * chance)


def holds_root(home: Home) -> bool:
    """Whether this home holds the mesh's root key."""
    return root_key_path(home).exists() and _file(home).exists()


def can_invite(home: Home) -> bool:
    """Whether this home holds a key that signs certificates: the root's, or an admin's own."""
    issues = issuer_key_path(home).exists() and issuer_path(home).exists()
    return holds_root(home) or (issues and _file(home).exists())


def root_key_path(home: Home) -> Path:
    """Where the mesh's root key is, in the home that made the mesh."""
    return home.keys / "root-key.pem"


def issuer_key_path(home: Home) -> Path:
    """Where an admin's key that signs certificates is."""
    return home.keys / "issuer-key.pem"


def issuer_path(home: Home) -> Path:
    """Where the root's word for that key is."""
    return home.keys / "issuer.pem"


def leave(home: Home) -> None:
    """Forgets the mesh, certificates and signing keys included. The home's own key stays."""
    for path in (
        _file(home),
        home.keys / "cert.pem",
        home.keys / "root.pem",
        root_key_path(home),
        issuer_key_path(home),
        issuer_path(home),
        home.keys / "retiring.json",
        home.keys / UNSAID,
        home.keys / "roster.json",
        home.keys / "roster.statements",
    ):
        path.unlink(missing_ok=True)


def _file(home: Home) -> Path:
    return home.keys / "membership.json"


def fields_of(membership: Membership) -> dict[str, str | int | tuple[Address, ...]]:
    """What the JSON file holds."""
    return {
        "version": 1,
        "mesh_id": membership.mesh_id,
        "mesh_name": membership.mesh_name,
        "role": membership.role.value,
        "peer_id": membership.peer_id,
        "discovery_key": membership.discovery_key.hex(),
        "not_before": membership.not_before.isoformat(),
        "not_after": membership.not_after.isoformat(),
        "seeds": membership.seeds,
    }


def _parse(fields: dict[str, Any], folder: Path) -> Membership:
    return Membership(
        mesh_id=MeshId(fields["mesh_id"]),
        mesh_name=fields["mesh_name"],
        role=Role(fields["role"]),
        peer_id=PeerId(fields["peer_id"]),
        discovery_key=bytes.fromhex(fields["discovery_key"]),
        not_before=datetime.fromisoformat(fields["not_before"]).astimezone(UTC),
        not_after=datetime.fromisoformat(fields["not_after"]).astimezone(UTC),
        folder=folder,
        seeds=tuple(map(Address, fields.get("seeds", ()))),
    )
