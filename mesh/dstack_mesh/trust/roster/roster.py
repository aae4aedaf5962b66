"""A set of statements of one mesh. Merging is union, so peers agree whatever reached them first."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.roster.chain import NOTHING, Chain, Heads, chain_of
from dstack_mesh.trust.roster.fold import governors, picture_of, spoken_of, unmade
from dstack_mesh.trust.roster.picture import Picture
from dstack_mesh.trust.roster.statement import (
    KEPT_FREE,
    MOST_OF_A_MEMBER,
    MOST_STATEMENTS,
    Revoke,
    Sealed,
)


@frozen
class Roster:
    """Verified statements of one mesh, by digest. What follows from them is worked out once."""

    mesh_id: MeshId
    statements: Mapping[bytes, Sealed]

    @classmethod
    def of(cls, mesh_id: MeshId, statements: Iterable[Sealed] = ()) -> "Roster":
        """The roster of these; those of other meshes are left out."""
        kept = {one.digest: one for one in statements if one.statement.mesh_id == mesh_id}
        return cls(mesh_id, kept)

    def merge(self, other: "Roster") -> "Roster":
        """What both know together."""
        return Roster.of(self.mesh_id, [*other.statements.values(), *self.statements.values()])

    @cached_property
    def chains(self) -> Mapping[PeerId, Chain]:
        """The statements by issuer; the root's chain first."""
        sorted_out: dict[PeerId, list[Sealed]] = defaultdict(list)
        for one in self.statements.values():
            sorted_out[one.statement.issuer].append(one)
        root = PeerId(self.mesh_id)
        issuers = sorted(sorted_out, key=lambda issuer: (issuer != root, issuer))
        return {issuer: chain_of(sorted_out[issuer]) for issuer in issuers}

    @cached_property
    def picture(self) -> Picture:
        """What the statements come to."""
        return picture_of(self.mesh_id, self.chains)

    @cached_property
    def unmade(self) -> frozenset[PeerId]:
        """Everybody who was an admin and is so never again."""
        return unmade(self.mesh_id, self.chains)

    @property
    def heads(self) -> Heads:
        """How far each issuer's statements are known."""
        return self.picture.heads

    def missing_since(self, heads: Heads) -> tuple[Sealed, ...]:
        """What a peer with these heads lacks: admins before those whom they admitted."""
        ranked = sorted(self.chains, key=lambda issuer: issuer not in self._governors)
        return tuple(
            one
            for issuer in ranked
            for one in self.chains[issuer].missing_since(heads.get(issuer, NOTHING))
        )

    def take(self, statements: Iterable[Sealed]) -> "Roster":
        """With those of the verified statements that are worth keeping.

        Left out, to come again: what follows no statement that is here, and what is of no issuer.
        Left out for good: what exceeds the bounds. Room is kept for the root and for revocations.
        """
        fresh = [one for one in statements if one.digest not in self.statements]
        if not fresh:
            return self
        return self._with_room(self.merge(Roster.of(self.mesh_id, fresh)), fresh)

    def _with_room(self, together: "Roster", fresh: list[Sealed]) -> "Roster":
        kept = dict(self.statements)
        count = Counter(one.statement.issuer for one in kept.values())
        for one in sorted(fresh, key=lambda one: one.statement.seq):
            issuer = one.statement.issuer
            follows = one.digest in together.chains[issuer].grounded
            fits = len(kept) < _most(one, self.mesh_id)
            if follows and fits and count[issuer] < together.room_for(one):
                kept[one.digest] = one
                count[issuer] += 1
        return Roster(self.mesh_id, kept)

    def room_for(self, one: Sealed) -> int:
        """How many statements are kept of this one's issuer; none of who has nothing to say."""
        issuer = one.statement.issuer
        if issuer in self._governors:
            return MOST_STATEMENTS
        return MOST_OF_A_MEMBER if issuer in self._spoken_of else 0

    @cached_property
    def _spoken_of(self) -> frozenset[PeerId]:
        return spoken_of(self.chains, self._governors)

    @cached_property
    def _governors(self) -> frozenset[PeerId]:
        return governors(self.mesh_id, self.chains)


def _most(one: Sealed, mesh_id: MeshId) -> int:
    first = one.statement.issuer == mesh_id or isinstance(one.statement.fact, Revoke)
    return MOST_STATEMENTS if first else MOST_STATEMENTS - KEPT_FREE
