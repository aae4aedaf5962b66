"""What can be said about the members of a mesh, and by whom it is said. Pure.

A statement is numbered within those of its issuer and names the hash of the one before, so nobody
who relays statements can leave one out unnoticed. What statements come to together is `fold`.
"""

import hashlib
from datetime import datetime
from functools import cached_property

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.signing import Signed
from dstack_mesh.trust.membership import Role

PURPOSE = "roster"
"""What statements are signed for."""

LONGEST_STATEMENT_BYTES = 4096
MOST_STATEMENTS = 10_000
KEPT_FREE = 1_000
"""Of those, room that is left for the root key and for revocations."""

KEPT_FOR_ROOT = 500
"""Of that, room for the root key alone: it can always take from an admin what that one is."""

MOST_OF_AN_ADMIN = 4_000
"""Statements of one admin."""

MOST_OF_A_MEMBER = 16
"""Statements of one member that is no admin: it says that it leaves, and joins again."""

DIGEST_BYTES = 32

LAST_YEAR = 2200
"""No statement is dated later."""

ASSIGNABLE = frozenset({Role.READER, Role.SUBMITTER, Role.RUNNER})
"""Roles that an admin may give."""


@frozen
class Admit:
    """A key is a member.

    Attributes:
        subject: Its peer id.
        role: As what.
        name: What people call it.
        through: What admitted it: the public part of an invitation, or a word.
        expires_at: Until when the certificate holds that was signed with this.
    """

    subject: PeerId
    role: Role
    name: str
    through: str
    expires_at: datetime | None = None


@frozen
class Assign:
    """A member has another role."""

    subject: PeerId
    role: Role


@frozen
class Revoke:
    """A key is a member never again. With `stop`, agents end the jobs that it gave them."""

    subject: PeerId
    why: str = ""
    stop: bool = False


@frozen
class Leave:
    """The issuer itself leaves what these statements admitted it to; a later one lets it in."""

    admissions: tuple[bytes, ...]


@frozen
class AddAdmin:
    """A member may invite and revoke."""

    subject: PeerId


@frozen
class RemoveAdmin:
    """It may no more, for ever; of what it signed this statement and those before it stand."""

    subject: PeerId
    last_seq: int
    last_digest: bytes


@frozen
class AddIssuer:
    """A key may sign certificates. `subject` is the key's hash, `holder` the peer that has it."""

    subject: PeerId
    holder: PeerId


@frozen
class RemoveIssuer:
    """That key may no more."""

    subject: PeerId


@frozen
class RequireProtocol:
    """Software that speaks only an older protocol gets no new work."""

    protocol: int


@frozen
class Unread:
    """Newer software said it: kept and passed on, without effect here."""


Fact = (
    Admit
    | Assign
    | Revoke
    | Leave
    | AddAdmin
    | RemoveAdmin
    | AddIssuer
    | RemoveIssuer
    | RequireProtocol
    | Unread
)


@frozen
class Statement:
    """Something said by an issuer.

    Attributes:
        mesh_id: The mesh; void in every other.
        issuer: Hash of the key that signs: the mesh's id for its root key, else a peer's id.
        seq: 1, 2, 3 …
        previous: Digest of the issuer's statement before; empty in the first.
        at: Later than all that the issuer knew, so a later word wins however clocks differ.
        fact: What is said.
    """

    mesh_id: MeshId
    issuer: PeerId
    seq: int
    previous: bytes
    at: datetime
    fact: Fact


@frozen
class Sealed:
    """A statement as it is kept and relayed: what it says, and the signed bytes that say it."""

    statement: Statement
    signed: Signed

    @cached_property
    def digest(self) -> bytes:
        """Names the statement. Of the body alone: one body signed twice is one statement."""
        return hashlib.sha256(self.signed.body).digest()
