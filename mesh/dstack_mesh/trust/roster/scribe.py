"""Writes statements of one issuer: numbered, chained, and refused where nobody would heed them."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from dstack_mesh.faults import Forbidden
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.signing import Signer
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.statement import LAST_YEAR, Fact, Sealed, Statement

Seal = Callable[[Signer, Statement], Sealed]
"""`dstack_mesh.wire.statements.seal`: how statements become bytes is known there."""

TICK = timedelta(microseconds=1)

LAST = datetime(LAST_YEAR, 12, 31, 23, 59, 59, 999_999, UTC)
"""Whoever can say nothing later says it then: of one moment the later number counts."""


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
        at = max([now.astimezone(UTC), *_heeded(roster)])
        written: list[Sealed] = []
        for number, fact in enumerate(facts, start=1):
            moment = min(at, LAST - number * TICK) + number * TICK
            said = Statement(self._mesh_id, self.issuer, seq + number, previous, moment, fact)
            sealed = self._seal(self._signer, said)
            written.append(sealed)
            previous = sealed.digest
        return written


def _heeded(roster: Roster) -> Iterator[datetime]:
    """When those spoke whose word counts for others."""
    said = (one.statement for one in roster.statements.values())
    return (one.at for one in said if one.issuer in roster.governors)


def not_allowed(what: str) -> Forbidden:
    """The error of a home whose word nobody would heed."""
    return Forbidden(
        f"{what} is not for this home.",
        "It holds neither the mesh's root key nor is it an admin.",
        "Do it on the machine where `dstack mesh create` was run, or on an admin's.",
        code="not-an-admin",
    )
