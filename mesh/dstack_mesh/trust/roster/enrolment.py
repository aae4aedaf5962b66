"""Writes into the roster whom this home admits, in the same step in which it signs for them."""

from collections.abc import Collection
from datetime import datetime
from itertools import count

from dstack_mesh.faults import Refused
from dstack_mesh.ids import PeerId
from dstack_mesh.own_name import tidy
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.picture import Belonging, Picture
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.scribe import Scribe, not_allowed
from dstack_mesh.trust.roster.statement import (
    AddAdmin,
    AddIssuer,
    Admit,
    Fact,
    RemoveAdmin,
    Sealed,
)


class Enrolment:
    """Admits on behalf of one issuer.

    Args:
        keeper: The roster of this home.
        scribe: Signs.
    """

    def __init__(self, keeper: Keeper, scribe: Scribe) -> None:
        self._keeper = keeper
        self._scribe = scribe

    def check(self, peer_id: PeerId, role: Role = Role.READER) -> None:
        """Whether this key may be admitted now, by us.

        Raises:
            Refused: It may never be a member again, or never again an admin.
            Forbidden: Nobody heeds us any more: our own key was replaced, or we are no admin.
        """
        if not self._scribe.may_govern(self._keeper.roster):
            raise not_allowed("Inviting")
        if self._keeper.picture.belonging(peer_id) is Belonging.REVOKED:
            raise Refused(
                "This key was revoked.",
                f"The mesh's roster admits {peer_id} never again.",
                "Make a new key there first: `dstack mesh leave --new-key`.",
                code="revoked",
            )
        if role is Role.ADMIN and peer_id in self._keeper.roster.unmade:
            raise Refused(
                "This key was an admin's before.",
                f"Who was one is never one again with the same key: {peer_id}.",
                "Make a new key there first: `dstack mesh leave --new-key`.",
                code="was-an-admin",
            )

    async def enrol(
        self,
        peer_id: PeerId,
        role: Role,
        name: str,
        through: str,
        expires_at: datetime,
        now: datetime,
        issuer: PeerId | None = None,
    ) -> Roster:
        """Admits a peer, under a name that no other member has; the roster with it.

        An admin is made one in the same step; `issuer` is the key with which it signs.

        Raises:
            Busy: The roster is full.
        """

        def write(roster: Roster) -> list[Sealed]:
            unused = unused_name(roster.picture, peer_id, name)
            given = Role.RUNNER if role is Role.ADMIN else role  # admins are made, not admitted
            facts: list[Fact] = [Admit(peer_id, given, unused, through, expires_at)]
            if role is Role.ADMIN and peer_id not in roster.picture.admins:
                facts.append(AddAdmin(peer_id))
            if issuer is not None:
                facts.append(AddIssuer(issuer, peer_id))
            return self._scribe.write(roster, facts, now)

        return await self._keeper.issue(write)


def unmaking(roster: Roster, subject: PeerId) -> list[Fact]:
    """What makes an admin one no more; all that it is known here to have said stands."""
    if subject not in roster.picture.admins:
        return []
    chain = roster.chains.get(subject)
    last = chain.tip if chain else None
    if last is None:
        return [RemoveAdmin(subject, 0, b"")]
    return [RemoveAdmin(subject, last.statement.seq, last.digest)]


def unused_name(
    picture: Picture, peer_id: PeerId, wanted: str, besides: PeerId | None = None
) -> str:
    """The name, or with a number where another member has it; `besides` may have it, too."""
    taken = {
        one.name
        for one in picture.members.values()
        if one.peer_id not in (peer_id, besides) and one.belonging is Belonging.MEMBER
    }
    return _free(tidy(wanted) or peer_id[:8], taken)


def _free(name: str, taken: Collection[str]) -> str:
    if name not in taken:
        return name
    return next(numbered for number in count(2) if (numbered := f"{name}-{number}") not in taken)
