"""What all statements come to: who is a member, as what, and who is not any more.

Plain values that commands read from a JSON file, without cryptography and without protobuf.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Any

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.chain import Head, Heads

RUNNING = frozenset({Role.RUNNER, Role.ADMIN, Role.ROOT})
"""Roles of members to which work may be given."""


class Belonging(Enum):
    """Whether somebody is a member."""

    MEMBER = "member"
    LEFT = "left"
    REVOKED = "revoked"


@frozen
class Enrolled:
    """Somebody of whom the roster speaks.

    Attributes:
        peer_id: Who.
        name: What people call it; empty if it was only revoked.
        role: As what; what it was, if it is not a member any more.
        belonging: Whether it is.
        admitted_by: Who let it in last; empty if that is not known.
        through: By what: the public part of an invitation, or a word.
        admitted_at: When.
        expires_at: Until when the certificate holds that was signed then.
        admissions: Digests of the statements that let it in and that it did not leave.
        why: Why it was revoked.
        revoked_by: Who said so first; empty if nobody did.
        stop: Whether the jobs that it gave to agents end.
    """

    peer_id: PeerId
    name: str
    role: Role
    belonging: Belonging
    admitted_by: PeerId
    through: str
    admitted_at: datetime | None
    expires_at: datetime | None
    admissions: tuple[bytes, ...] = ()
    why: str = ""
    stop: bool = False
    revoked_by: PeerId = PeerId("")


@frozen
class Picture:
    """The roster as one peer knows it.

    Attributes:
        mesh_id: Of which mesh.
        heads: How far each issuer's statements are known.
        members: Everybody of whom the roster speaks.
        admins: Who may invite and revoke, beside the root.
        issuers: Keys that sign certificates, and who has them: they do so while it is an admin.
        voided: Keys that may sign no more.
        forked: Issuers that numbered two statements alike.
        protocol: The oldest protocol whose speakers get work.
    """

    mesh_id: MeshId
    heads: Heads
    members: Mapping[PeerId, Enrolled]
    admins: frozenset[PeerId] = frozenset()
    issuers: Mapping[PeerId, PeerId] | None = None
    forked: tuple[PeerId, ...] = ()
    protocol: int = 0
    voided: frozenset[PeerId] = frozenset()

    @cached_property
    def digest(self) -> str:
        """Short, and equal at two peers that know the same."""
        return digest_of(self.heads)

    def belonging(self, peer_id: PeerId) -> Belonging | None:
        """Whether somebody is a member; None if the roster does not speak of it."""
        one = self.members.get(peer_id)
        return None if one is None else one.belonging

    def role(self, peer_id: PeerId, otherwise: Role) -> Role:
        """A member's role; `otherwise` while its admission is not known here."""
        one = self.members.get(peer_id)
        known = one is not None and one.belonging is Belonging.MEMBER
        return one.role if one is not None and known else otherwise

    def may_run(self, peer_id: PeerId) -> bool | None:
        """Whether work may be given to a peer; None while its admission is not known here."""
        one = self.members.get(peer_id)
        if one is None:
            return None
        return one.belonging is Belonging.MEMBER and one.role in RUNNING

    def may_write(self, peer_id: PeerId) -> bool:
        """Whether what a peer publishes of itself and its runs is believed.

        One that is not in the roster waits until it is, unless the roster began later than the
        mesh.
        """
        said = self.may_run(peer_id)
        return not self.founded if said is None else said

    def honours(self, issuer: PeerId | None, peer_id: PeerId) -> bool:
        """Whether a certificate counts that a key signed for a peer; None is the root.

        What was signed with a voided key counts for nobody. What a removed admin signed counts
        for whom it had admitted before its limit, or somebody else did. A key of which the roster
        does not speak yet counts, for the root signed its certificate.
        """
        if issuer is None or issuer == PeerId(self.mesh_id):
            return True
        if issuer in self.voided:
            return False
        holder = (self.issuers or {}).get(issuer)
        if holder is None or holder in self.admins:
            return True
        return self.belonging(peer_id) is Belonging.MEMBER

    def issues(self, peer_id: PeerId) -> bool:
        """Whether a member has a key that signs certificates: the root's, or one of its own."""
        if self.belonging(peer_id) is not Belonging.MEMBER:
            return False
        own = peer_id in self.admins and peer_id in (self.issuers or {}).values()
        return own or self.members[peer_id].role is Role.ROOT

    @property
    def founded(self) -> bool:
        """Whether the roster began with the mesh, so that every member is in it."""
        return any(one.role is Role.ROOT for one in self.members.values())

    def called(self, issuer: PeerId) -> str:
        """What people call who says things of members."""
        if issuer == PeerId(self.mesh_id):
            return "root"
        known = self.members.get(issuer)
        return (known.name if known else "") or issuer[:8]

    def shut_out(self) -> frozenset[PeerId]:
        """Everybody with whom nobody speaks any more."""
        gone = (one for one in self.members.values() if one.belonging is not Belonging.MEMBER)
        return frozenset(one.peer_id for one in gone)

    def stopped(self) -> frozenset[PeerId]:
        """Everybody whose jobs end."""
        return frozenset(one.peer_id for one in self.members.values() if one.stop)


def empty(mesh_id: MeshId) -> Picture:
    """What is known before anything was said."""
    return Picture(mesh_id, {}, {})


def digest_of(heads: Heads) -> str:
    """32 characters that differ if the heads do; empty where nothing is known."""
    if not heads:
        return ""
    said = "\n".join(
        f"{issuer} {head.seq} {head.digest.hex()}" for issuer, head in sorted(heads.items())
    )
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def to_json(picture: Picture) -> dict[str, Any]:
    """The picture as plain JSON."""
    return {
        "version": 1,
        "mesh_id": picture.mesh_id,
        "heads": {issuer: [one.seq, one.digest.hex()] for issuer, one in picture.heads.items()},
        "members": [_member_to_json(one) for one in picture.members.values()],
        "admins": sorted(picture.admins),
        "issuers": dict(picture.issuers or {}),
        "forked": picture.forked,
        "protocol": picture.protocol,
        "voided": sorted(picture.voided),
    }


def from_json(fields: Mapping[str, Any]) -> Picture:
    """The picture again. Raises ValueError, KeyError or TypeError if it is none."""
    members = [_member_from_json(one) for one in fields["members"]]
    return Picture(
        mesh_id=MeshId(fields["mesh_id"]),
        heads={
            PeerId(issuer): Head(seq, bytes.fromhex(digest))
            for issuer, (seq, digest) in fields["heads"].items()
        },
        members={one.peer_id: one for one in members},
        admins=frozenset(map(PeerId, fields["admins"])),
        issuers={PeerId(key): PeerId(holder) for key, holder in fields["issuers"].items()},
        forked=tuple(map(PeerId, fields["forked"])),
        protocol=fields["protocol"],
        voided=frozenset(map(PeerId, fields.get("voided", ()))),
    )


def _member_to_json(one: Enrolled) -> dict[str, Any]:
    return {
        "id": one.peer_id,
        "name": one.name,
        "role": one.role.value,
        "belonging": one.belonging.value,
        "admitted_by": one.admitted_by,
        "through": one.through,
        "admitted_at": one.admitted_at and one.admitted_at.isoformat(),
        "expires_at": one.expires_at and one.expires_at.isoformat(),
        "admissions": [digest.hex() for digest in one.admissions],
        "why": one.why,
        "stop": one.stop,
        "revoked_by": one.revoked_by,
    }


def _member_from_json(fields: Mapping[str, Any]) -> Enrolled:
    return Enrolled(
        peer_id=PeerId(fields["id"]),
        name=fields["name"],
        role=Role(fields["role"]),
        belonging=Belonging(fields["belonging"]),
        admitted_by=PeerId(fields["admitted_by"]),
        through=fields["through"],
        admitted_at=_time(fields["admitted_at"]),
        expires_at=_time(fields["expires_at"]),
        admissions=tuple(map(bytes.fromhex, fields["admissions"])),
        why=fields["why"],
        stop=fields["stop"],
        revoked_by=PeerId(fields.get("revoked_by", "")),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
