"""The probe that is out: a direct call, then another one and three helpers, then a verdict."""

from dataclasses import dataclass, field
from random import Random

from dstack_mesh.ids import PeerId
from dstack_mesh.membership.health import Health
from dstack_mesh.membership.outbox import Outbox
from dstack_mesh.membership.pace import Pace
from dstack_mesh.membership.register import Register
from dstack_mesh.membership.signs import Purpose
from dstack_mesh.membership.turns import Turns

MOST_PATIENCES = 5
"""A probe of which nothing is heard for so long is over, however that came about."""


@dataclass(slots=True)
class Probe:
    """One that is out.

    Attributes:
        peer_id: Who is probed.
        patience: Until it is called again and helpers are asked; as much again until it is over.
        waiting: Calls that did not end yet.
        helpers: Calls to helpers, of which each answers even if it did not reach the peer.
        missed: Helpers that said nothing.
    """

    peer_id: PeerId
    began: float
    patience: float
    waiting: set[int] = field(default_factory=set[int])
    helpers: set[int] = field(default_factory=set[int])
    missed: int = 0
    helping: bool = False


class Probing:
    """Probes one peer after the other.

    Args:
        own: Who we are.
        known: Whom there is to probe.
        out: Makes the calls.
        health: Ours; probes make it better and worse.
        random: Shuffles.
        pace: The numbers.
    """

    def __init__(
        self,
        own: PeerId,
        known: Register,
        out: Outbox,
        health: Health,
        random: Random,
        pace: Pace,
    ) -> None:
        self._known = known
        self._out = out
        self._health = health
        self._pace = pace
        self._turns = Turns(own, known, random)
        self._probe: Probe | None = None

    def begin(self, now: float) -> None:
        """Probes whose turn it is, unless a probe is still out."""
        out = self._probe
        if out is not None and now - out.began < MOST_PATIENCES * out.patience:
            return
        peer_id = self._turns.next()
        if peer_id is not None:
            patience = self._pace.patience * self._health.slowness
            probe = self._probe = Probe(peer_id, now, patience)
            member = self._known.members[peer_id]
            probe.waiting.add(self._out.call(member, Purpose.PROBE, patience))

    def abandon(self) -> None:
        """Whatever becomes of the probe that is out says nothing."""
        self._probe = None

    def answered(self, number: int) -> None:
        """A call was answered, by the peer or by a helper that reached it."""
        if self._probe is not None and number in self._probe.waiting:
            if not self._probe.helping:
                self._health.recover()
            self._probe = None

    def silent(self, number: int, nack: bool, now: float) -> PeerId | None:
        """A call was not answered, or a helper says that it did not reach the peer.

        Returns:
            The peer that nobody reached, if this was the last hope.
        """
        probe = self._probe
        if probe is None or number not in probe.waiting:
            return None
        probe.waiting.discard(number)
        probe.missed += number in probe.helpers and not nack
        if not probe.helping:
            self._ask_helpers(probe, now)
        if probe.waiting:
            return None
        self._probe = None
        member = self._known.members.get(probe.peer_id)
        if member is not None and member.suspicion is None and self._was_it_us(probe):
            self._health.worsen()
        return probe.peer_id

    def _ask_helpers(self, probe: Probe, now: float) -> None:
        member = self._known.members.get(probe.peer_id)
        if member is None or not member.living:
            return
        probe.helping = True
        within = max(probe.began + 2 * probe.patience - now, probe.patience)
        probe.waiting.add(self._out.call(member, Purpose.AGAIN, within))
        others = [one for one in self._out.sample(self._pace.helpers + 1) if one is not member]
        for helper in others[: self._pace.helpers]:
            probe.helpers.add(self._out.call_for(helper, member, within))
        probe.waiting |= probe.helpers

    def _was_it_us(self, probe: Probe) -> bool:
        """Whether most helpers, which answer in any case, were not heard either."""
        return 2 * probe.missed >= len(probe.helpers)
