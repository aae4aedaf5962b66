"""Writes statements of one issuer: numbered, chained, and refused where nobody would heed them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from dstack_mesh.faults import Forbidden
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.signing import Signer
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.statement import Fact, Sealed, Statement

Seal = Callable[[Signer, Statement], Sealed]
"""`dstack_mesh.wire.statements.seal`: how statements become bytes is known there."""

TICK = timedelta(microseconds=1)


class Scribe:
    """Signs what one issuer says.

    Args:
        signer: The root key, or a peer's own.
        mesh_id: Of which mesh.
        seal: Makes bytes of a statement and signs them.
    """

    def __init__(self, signer: Signer, mesh_id: MeshId, seal: Seal) -> None:
        self._signer = signer
        self._mesh_id = mesh_id
        self._seal = seal
        self.issuer = signer.peer_id

    @property
    def is_root(self) -> bool:
        return self.issuer == PeerId(self._mesh_id)

    def may_govern(self, roster: Roster) -> bool:
        """Whether others heed what it says of members."""
        return self.is_root or self.issuer in roster.picture.admins

    def write(self, roster: Roster, facts: Sequence[Fact], now: datetime) -> list[Sealed]:
        """The next statements of this issuer. Give them to the book under its lock."""
        chain = roster.chains.get(self.issuer)
        last = chain.tip if chain else None
        seq, previous = (last.statement.seq, last.digest) if last else (0, b"")
        known = (one.statement.at for one in roster.statements.values())
        at = max(now.astimezone(UTC), max(known, default=now) + TICK)
        written: list[Sealed] = []
        for number, fact in enumerate(facts, start=1):
            said = Statement(
                self._mesh_id, self.issuer, seq + number, previous, at + number * TICK, fact
            )
            sealed = self._seal(self._signer, said)
            written.append(sealed)
            previous = sealed.digest
        return written


def not_allowed(what: str) -> Forbidden:
    """The error of a home whose word nobody would heed."""
    return Forbidden(
        f"{what} is not for this home.",
        "It holds neither the mesh's root key nor is it an admin.",
        "Do it on the machine where `dstack mesh create` was run, or on an admin's.",
        code="not-an-admin",
    )
