"""The statements of one issuer: which hang together, where two contradict, what another lacks.

    1 ── 2 ── 3 ── 4        whole: every statement counts
    1 ── 2 ── _ ── 4        a gap: 4 waits for 3, unless it revokes
    1 ── 2 ┬─ 3 ── 4        a fork: the issuer numbered two statements alike, by a copied home or
           └─ 3'            with intent; both count, and the fork is shown to people

Both branches count because each says only what its issuer may say anyway, and because leaving one
out would let an issuer take back what it revoked.
"""

import hashlib
from collections.abc import Iterable, Mapping

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.roster.statement import Sealed


@frozen
class Head:
    """How far the statements of one issuer are known."""

    seq: int
    digest: bytes


NOTHING = Head(0, b"")

Heads = Mapping[PeerId, Head]


@frozen
class Chain:
    """Statements of one issuer.

    Attributes:
        grounded: Those whose predecessors are all here, by digest, in the order of their numbers.
        loose: The others.
        forked_at: The first number that two grounded ones have; 0 if there is none.
    """

    grounded: dict[bytes, Sealed]
    loose: tuple[Sealed, ...]
    forked_at: int

    @property
    def tip(self) -> Sealed | None:
        """The statement that the next one names: of those with the highest number, any certain."""
        return self.grounded[next(reversed(self.grounded))] if self.grounded else None

    @property
    def head(self) -> Head:
        """Equal at two peers exactly if their grounded statements are."""
        tip = self.tip
        if tip is None:
            return NOTHING
        whole = hashlib.sha256(b"".join(sorted(self.grounded))).digest()
        return Head(tip.statement.seq, whole if self.forked_at else tip.digest)

    def up_to(self, digest: bytes) -> frozenset[bytes]:
        """The statement and all before it; empty if it is not here."""
        line: set[bytes] = set()
        while (sealed := self.grounded.get(digest)) is not None:
            line.add(digest)
            digest = sealed.statement.previous
        return frozenset(line)

    def missing_since(self, head: Head) -> tuple[Sealed, ...]:
        """What a peer lacks whose head this is, in the order of the numbers."""
        if head == self.head or not self.grounded:
            return ()
        if head.digest in self.grounded or head == NOTHING:
            line = self.up_to(head.digest)
            return tuple(one for digest, one in self.grounded.items() if digest not in line)
        if head.seq > self.head.seq and not self.forked_at:
            return ()  # It is ahead; if it took another way, it will see that in our head.
        return tuple(self.grounded.values())


def chain_of(statements: Iterable[Sealed]) -> Chain:
    """The chain of these statements, all of one issuer."""
    ordered = sorted(statements, key=lambda one: (one.statement.seq, one.digest))
    grounded: dict[bytes, Sealed] = {}
    loose: list[Sealed] = []
    last_seq, forked_at = 0, 0
    for one in ordered:
        if not _follows(one, grounded):
            loose.append(one)
            continue
        if one.statement.seq == last_seq and not forked_at:
            forked_at = last_seq
        last_seq = one.statement.seq
        grounded[one.digest] = one
    return Chain(grounded, tuple(loose), forked_at)


def _follows(one: Sealed, grounded: Mapping[bytes, Sealed]) -> bool:
    said = one.statement
    if said.seq == 1:
        return not said.previous
    before = grounded.get(said.previous)
    return before is not None and before.statement.seq == said.seq - 1
