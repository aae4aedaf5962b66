"""Whose turn it is to be probed."""

from bisect import bisect
from random import Random

from dstack_mesh.ids import PeerId
from dstack_mesh.membership.register import Register


class Turns:
    """Every second probe goes through all peers in an order that is shuffled for each round; the
    others go to our ward, the next one in the order of ids.

    The round alone would leave one peer in a thousand unprobed for 7 s; with a ward for everybody,
    each is probed at least every second interval by somebody, at no further cost.

    Args:
        own: Who we are.
        known: Whom there is to probe.
        random: Shuffles.
    """

    def __init__(self, own: PeerId, known: Register, random: Random) -> None:
        self._own = own
        self._known = known
        self._random = random
        self._round: list[PeerId] = []
        self._ward_next = False

    def next(self) -> PeerId | None:
        """The next one; None if nobody is there."""
        living = self._known.living
        if not living:
            return None
        self._ward_next = not self._ward_next
        if self._ward_next:
            return living[bisect(living, self._own) % len(living)]
        while self._round:
            member = self._known.members.get(self._round.pop())
            if member is not None and member.living:
                return member.peer_id
        self._round = list(living)
        self._random.shuffle(self._round)
        return self._round.pop()
