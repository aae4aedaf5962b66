"""Whether those who signed a run were members then, as the roster of this home proves it."""

from datetime import datetime, timedelta

from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.roster.picture import RUNNING, Belonging, Enrolled, Picture
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.wire.roster import open_book
from dstack_mesh.wire.statements import verified
from dstack_scheduler.proving import Fact, Standing, Walked, about

CLOCKS_DIFFER = timedelta(minutes=5)
"""So much later an admission may be dated than what was admitted did next: clocks are not equal."""

_SUBMITTING = frozenset(Role) - {Role.READER}


@frozen
class Credentials:
    """Who was what, by statements that were checked one by one.

    Attributes:
        own: This home's id.
        roster: None outside a mesh, where this home alone signs.
        broken: Statements in the book that nobody signed.
    """

    own: PeerId
    roster: Roster | None = None
    broken: int = 0

    @classmethod
    def of(cls, home: Home, own: PeerId) -> "Credentials":
        """Reads the book of a home. Blocks: it checks every signature in it."""
        membership = Membership.load(home)
        if membership is None:
            return cls(own)
        kept = open_book(home, membership.mesh_id).read().statements.values()
        checked = verified(one.signed for one in kept)
        roster = Roster.of(membership.mesh_id, checked)
        return cls(own, roster, len(kept) - len(checked))

    def names(self) -> dict[PeerId, str]:
        """What members are called."""
        if self.roster is None:
            return {}
        return {peer: one.name for peer, one in self.roster.picture.members.items() if one.name}

    def of_roster(self) -> list[Fact]:
        """What is to be said of the roster itself."""
        if self.roster is None:
            return []
        count = len(self.roster.statements)
        if self.broken:
            sentence = f"{self.broken} of {count + self.broken} statements are not what was signed"
            return [Fact("", "roster", Standing.WRONG, sentence)]
        return [Fact("", "roster", Standing.PROVED, f"{count} statements, each signed")]

    def of_signers(self, walked: Walked, submitter: PeerId | None) -> list[Fact]:
        """What those who signed an attempt were when it began."""
        at = walked.states[0].at if walked.states else walked.taken.specification.submitted_at
        # What a machine runs for itself needs no right.
        wanted = _SUBMITTING if walked.agent == walked.giver else RUNNING
        where = about(walked.key)
        facts = [self._of(where, "agent", walked.agent, wanted, at)]
        if walked.giver != walked.agent:
            passed_on = submitter not in (None, walked.giver)
            rights = RUNNING if passed_on else _SUBMITTING
            facts.append(self._of(where, "giver", walked.giver, rights, at))
        if submitter is not None and submitter not in (walked.agent, walked.giver):
            facts.append(self._of(where, "submitter", submitter, _SUBMITTING, at))
        return facts

    def _of(
        self, where: str, what: str, peer: PeerId, wanted: frozenset[Role], at: datetime
    ) -> Fact:
        if self.roster is None:
            own = peer == self.own
            sentence = f"{peer} is this home" if own else f"{peer} is not this home"
            return Fact(where, what, Standing.PROVED if own else Standing.WRONG, sentence)
        then = _member_then(self.roster, peer, at)
        now = self.roster.picture.members.get(peer)
        if now is None:
            sentence = f"no statement that is known here admits {peer}"
            return Fact(where, what, Standing.ABSENT, sentence)
        if then is None or then.belonging is not Belonging.MEMBER:
            was = then.belonging.value if then is not None else "not admitted"
            return Fact(where, what, Standing.WRONG, f"{peer} was {was} then")
        if then.role not in wanted:
            return Fact(where, what, Standing.WRONG, f"{peer} was {then.role.value} then")
        return Fact(where, what, Standing.PROVED, _admitted(peer, then, now, self.roster.picture))


def _member_then(roster: Roster, peer: PeerId, at: datetime) -> Enrolled | None:
    """What it was then; where it was no member yet, what it was as soon as clocks may differ."""
    then = _as_of(roster, at).members.get(peer)
    if then is not None and then.belonging is Belonging.MEMBER:
        return then
    return _as_of(roster, at + CLOCKS_DIFFER).members.get(peer) or then


def _as_of(roster: Roster, at: datetime) -> Picture:
    said = [one for one in roster.statements.values() if one.statement.at <= at]
    return Roster.of(roster.mesh_id, said).picture


def _admitted(peer: PeerId, then: Enrolled, now: Enrolled, picture: Picture) -> str:
    by = "the root" if then.admitted_by == picture.mesh_id else str(then.admitted_by)
    sentence = f"{peer} was {then.role.value} then, admitted by {by}"
    match now.belonging:
        case Belonging.REVOKED:
            return f"{sentence}; revoked since" + (f" ({now.why})" if now.why else "")
        case Belonging.LEFT:
            return f"{sentence}; left since"
        case Belonging.MEMBER:
            return sentence
