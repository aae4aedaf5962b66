"""What membership wants done, as it collects while one event is handled, and the calls that are
out."""

from random import Random

from dstack_mesh.ids import PeerId
from dstack_mesh.membership.gossip import Gossip
from dstack_mesh.membership.member import Member
from dstack_mesh.membership.pace import Pace, transmissions
from dstack_mesh.membership.register import Register
from dstack_mesh.membership.rumour import Message, Rumour
from dstack_mesh.membership.signs import Call, CallFor, Compare, Effect, Purpose


class Outbox:
    """Makes effects: calls with their numbers and messages, and news for some at once.

    Args:
        word: What we say of ourselves.
        known: Whom there is to call.
        random: Chooses whom to tell and to ask.
        pace: The numbers.
    """

    def __init__(self, word: Rumour, known: Register, random: Random, pace: Pace) -> None:
        self.word = word
        self.gossip = Gossip()
        self._known = known
        self._random = random
        self._pace = pace
        self._effects: list[Effect] = []
        self._out: dict[int, tuple[PeerId, Purpose]] = {}
        self._numbers = 0

    def add(self, effect: Effect) -> None:
        self._effects.append(effect)

    def empty(self) -> list[Effect]:
        """What collected, to be done now."""
        effects, self._effects = self._effects, []
        return effects

    def call(self, member: Member, purpose: Purpose, within: float) -> int:
        """Probes a peer directly; the number of the call."""
        number = self._number(member.peer_id, purpose)
        message = self.message(member.peer_id)
        self.add(Call(number, member.peer_id, member.reachable, message, within, purpose))
        return number

    def call_for(self, helper: Member, member: Member, within: float) -> int:
        """Asks a helper to probe a peer; the number of the call."""
        number = self._number(member.peer_id, Purpose.AGAIN)
        them = (helper.peer_id, helper.reachable, member.peer_id, member.addresses)
        self.add(CallFor(number, *them, within))
        return number

    def compare(self, member: Member, cause: str) -> None:
        self.add(Compare(member.peer_id, member.reachable, cause))

    def ended(self, number: int) -> tuple[PeerId, Purpose] | None:
        """Whom a call was for and why; None if it is not out, or not any more."""
        return self._out.pop(number, None)

    def abandon(self) -> None:
        """Whatever becomes of the calls that are out says nothing."""
        self._out.clear()

    def tell_of(self, member: Member, urgent: bool) -> None:
        """Spreads the news about a peer with the probes; urgent ones go to some peers at once."""
        self.gossip.spread(member.rumour())
        if urgent:
            self.push()

    def push(self, most: int | None = None) -> None:
        """Tells some peers all news now."""
        for member in self.sample(most or self._pace.push):
            self.call(member, Purpose.NEWS, self._pace.patience)

    def message(self, to: PeerId) -> Message:
        """What is sent to a peer: first of all, what is said of itself (Lifeguard's buddy)."""
        times = transmissions(self._known.size, self._pace)
        rumours = self.gossip.take(self._pace.most_rumours - 1, times, untold=(to,))
        about = self._known.members.get(to)
        if about is not None and (about.suspicion is not None or not about.living):
            rumours = (about.rumour(), *rumours)
        return Message(self.word, rumours)

    def sample(self, most: int) -> list[Member]:
        """So many of those who may answer."""
        living = self._known.living
        chosen = self._random.sample(living, min(most, len(living)))
        return [self._known.members[peer_id] for peer_id in chosen]

    def _number(self, peer_id: PeerId, purpose: Purpose) -> int:
        self._numbers += 1
        self._out[self._numbers] = (peer_id, purpose)
        return self._numbers
