"""A set of statements of one mesh. Merging is union, so peers agree whatever reached them first."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.roster.chain import NOTHING, Chain, Heads, chain_of
from dstack_mesh.trust.roster.fold import governors, picture_of, spoken_of, unmade, void
from dstack_mesh.trust.roster.picture import Picture
from dstack_mesh.trust.roster.statement import (
    KEPT_FOR_ROOT,
    KEPT_FREE,
    MOST_OF_A_MEMBER,
    MOST_OF_AN_ADMIN,
    MOST_STATEMENTS,
    AddAdmin,
    Admit,
    Leave,
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
        ranked = sorted(self.chains, key=lambda issuer: issuer not in self.governors)
        return tuple(
            one
            for issuer in ranked
            for one in self.chains[issuer].missing_since(heads.get(issuer, NOTHING))
        )

    def take(self, statements: Iterable[Sealed]) -> "Roster":
        """With those of the verified statements that are worth keeping.

        Left out, to come again: what follows no statement that is here, and what is of no issuer.
        Left out for good: what exceeds the bounds, and what a removed admin said beyond its limit.
        Room is kept for the root and for revocations.
        """
        fresh = [one for one in statements if one.digest not in self.statements]
        if not fresh:
            return self
        together = self.merge(Roster.of(self.mesh_id, fresh)).without_void()
        after = self._with_room(together, fresh)
        return self if after.statements.keys() == self.statements.keys() else after

    def without_void(self) -> "Roster":
        """Without what removed admins said beyond their limits, so that peers agree on the rest."""
        gone = void(self.mesh_id, self.chains)
        if not gone:
            return self
        kept = {digest: one for digest, one in self.statements.items() if digest not in gone}
        return Roster(self.mesh_id, kept)

    def _with_room(self, together: "Roster", fresh: list[Sealed]) -> "Roster":
        kept = {digest: one for digest, one in self.statements.items() if together.holds(one)}
        count = Counter(one.statement.issuer for one in kept.values())
        room = {issuer: together.room_for(issuer) for issuer in together.chains}
        for one in sorted(fresh, key=lambda one: one.statement.seq):
            issuer = one.statement.issuer
            fits = len(kept) < _most(one, self.mesh_id)
            if together.holds(one) and fits and count[issuer] < room[issuer]:
                kept[one.digest] = one
                count[issuer] += 1
        return Roster(self.mesh_id, kept)

    def holds(self, one: Sealed) -> bool:
        """Whether a statement is here with all that its issuer said before."""
        chain = self.chains.get(one.statement.issuer)
        return chain is not None and one.digest in chain.grounded

    def room_for(self, issuer: PeerId) -> int:
        """How many statements are kept of an issuer; none of who has nothing to say."""
        if issuer == self.mesh_id:
            return MOST_STATEMENTS
        if issuer in self.unmade:
            return self._within_limits(issuer) + MOST_OF_A_MEMBER
        if issuer in self.governors:
            return MOST_OF_AN_ADMIN
        return MOST_OF_A_MEMBER if issuer in self._spoken_of else 0

    def promising(self, arrived: Iterable[Sealed]) -> list[Sealed]:
        """Those that might be kept if they are true, which costs less to see than a signature.

        They follow what is here, or one another; their issuer is known here, or named by one.
        """
        ordered = sorted(arrived, key=lambda one: one.statement.seq)
        issuers = {one.statement.issuer for one in ordered}
        facts = (one.statement.fact for one in ordered)
        room = {
            fact.subject: MOST_OF_AN_ADMIN for fact in facts if isinstance(fact, Admit | AddAdmin)
        }
        room |= {one: known for one in issuers if (known := self.room_for(one))}
        here, count = set(self.statements), Counter[PeerId]()
        found: list[Sealed] = []
        for one in ordered:
            said = one.statement
            follows = said.seq == 1 or said.previous in here
            fits = count[said.issuer] < room.get(said.issuer, 0)
            if one.digest not in self.statements and follows and fits:
                here.add(one.digest)
                count[said.issuer] += 1
                found.append(one)
        return found

    def _within_limits(self, issuer: PeerId) -> int:
        said = self.chains[issuer].grounded.values() if issuer in self.chains else ()
        return sum(not isinstance(one.statement.fact, Leave) for one in said)

    @cached_property
    def _spoken_of(self) -> frozenset[PeerId]:
        return spoken_of(self.chains, self.governors)

    @cached_property
    def governors(self) -> frozenset[PeerId]:
        """The root, and everybody who ever was an admin."""
        return governors(self.mesh_id, self.chains)


def _most(one: Sealed, mesh_id: MeshId) -> int:
    if one.statement.issuer == mesh_id:
        return MOST_STATEMENTS
    revokes = isinstance(one.statement.fact, Revoke)
    return MOST_STATEMENTS - (KEPT_FOR_ROOT if revokes else KEPT_FREE)
