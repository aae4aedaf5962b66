"""The peers that membership keeps, and the lists of them that must stay in step."""

from bisect import bisect_left, insort

from dstack_mesh.ids import PeerId
from dstack_mesh.membership.member import Member, Suspicion
from dstack_mesh.membership.pace import Pace
from dstack_mesh.membership.rumour import Condition, Rumour


class Register:
    """Who is known, who may answer, who is suspected, who is gone, and who was forgotten.

    Args:
        pace: Has the bounds.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.members: dict[PeerId, Member] = {}
        self.living: list[PeerId] = []
        self.gone: dict[PeerId, None] = {}
        self.suspects: dict[PeerId, Suspicion] = {}
        self._tombs: dict[PeerId, tuple[int, float]] = {}

    @property
    def size(self) -> int:
        """Peers of the mesh that may answer, ourselves included."""
        return len(self.living) + 1

    def add(self, word: Rumour, now: float) -> Member | None:
        """A new member, alive; None if there are too many."""
        if len(self.members) >= self._pace.most_members:
            return None
        member = Member(word.peer_id, word.incarnation, word.state, word.name, word.addresses, now)
        self.members[word.peer_id] = member
        insort(self.living, word.peer_id)
        return member

    def stand(self, member: Member, condition: Condition, now: float) -> None:
        """Gives a member a condition."""
        was_living = member.living
        if member.condition is not condition:
            member.condition, member.since = condition, now
        if was_living and not member.living:
            del self.living[bisect_left(self.living, member.peer_id)]
            if condition is Condition.DEAD:
                self.gone[member.peer_id] = None
        elif member.living and not was_living:
            self.gone.pop(member.peer_id, None)
            insort(self.living, member.peer_id)

    def suspect(self, member: Member, suspicion: Suspicion) -> None:
        """Begins a suspicion, or another one."""
        member.suspicion = self.suspects[member.peer_id] = suspicion

    def clear(self, member: Member) -> None:
        """Ends a suspicion, whatever came of it."""
        member.suspicion = None
        self.suspects.pop(member.peer_id, None)

    def buried(self, peer_id: PeerId) -> int:
        """The last incarnation of a peer that was forgotten; -1 if there was none."""
        return self._tombs.get(peer_id, (-1, 0.0))[0]

    def forget(self, now: float) -> list[Member]:
        """Lets go of who has been gone for long; only their incarnations are kept, for a day."""
        old = [
            one
            for one in self.members.values()
            if not one.living and now - one.since >= self._pace.forget
        ]
        for member in old:
            del self.members[member.peer_id]
            self.gone.pop(member.peer_id, None)
            self._tombs[member.peer_id] = (member.incarnation, now)
        remembered = self._pace.remember
        ended = {one for one, (_, at) in self._tombs.items() if now - at > remembered}
        surplus = max(len(self._tombs) - self._pace.most_members, 0)
        for peer_id in ended | set(list(self._tombs)[:surplus]):
            del self._tombs[peer_id]
        return old
