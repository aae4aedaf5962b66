"""What agents say to one question, round after round: who is asked, who answered, who is silent.

It only remembers. `auction` and `gang` decide what to do with it.
"""

from collections.abc import Container, Sequence

from dstack_mesh.faults import MeshError
from dstack_mesh.ids import PeerId
from dstack_scheduler.auction_events import (
    AllFound,
    Answered,
    Ask,
    Found,
    Look,
    Questioning,
    Silent,
    WakeAt,
)
from dstack_scheduler.eligible import eligible, is_a_name
from dstack_scheduler.placement import Offer
from dstack_scheduler.progress import Asked, Waiting
from dstack_scheduler.refusal import (
    ambiguous,
    no_agent_fits,
    no_agents,
    reasons_of,
    silence,
)
from dstack_scheduler.verdict import Bid, Never, Now, Reason

SOFT_SECONDS = 0.25
HARD_SECONDS = 1.0

VOLATILE = frozenset({"memory-busy", "disk-full", "cpu-busy"})
"""Codes whose messages carry a number that changes all the time."""


class Poll:
    """Of one job, or of jobs that are asked for together.

    Attributes:
        known: Agents that were found, in any round.
        bids: What they answered in this round.
        struck: Agents that are asked no more, and why.
        round: Number of this round.
        all_found: Nobody else is expected in this round.
    """

    def __init__(self, placement: str) -> None:
        self._placement = placement
        self.known: dict[PeerId, Found] = {}
        self.bids: dict[PeerId, Bid] = {}
        self.struck: dict[PeerId, Reason] = {}
        self.round = 0
        self.all_found = False
        self._asked_at: dict[PeerId, float] = {}
        self._silent: dict[PeerId, Reason] = {}
        self._said: object = None

    def open(self, now: float) -> list[Questioning]:
        """A new round: everybody is looked for and asked."""
        self.round += 1
        self.all_found = False
        self._asked_at.clear()
        self.bids.clear()
        self._silent.clear()
        asks = [effect for peer in self.eligible() for effect in self._ask(peer, now)]
        return [Look(self.round), *asks, WakeAt(now + SOFT_SECONDS)]

    def found(self, found: Found, now: float, asking: bool) -> list[Questioning]:
        """Notes an agent, and asks it if it was not yet."""
        peer = found.card.peer_id
        self.known[peer] = found
        if asking and peer not in self._asked_at and peer in self.eligible():
            return self._ask(peer, now)
        return []

    def hear(self, event: AllFound | Answered | Silent) -> None:
        """Notes an answer, unless it is to an earlier round."""
        if event.round != self.round:
            return
        match event:
            case AllFound():
                self.all_found = True
            case Answered(peer, _, bid):
                self.bids[peer] = bid
                self._silent.pop(peer, None)
            case Silent(peer, _, why):
                self._silent[peer] = Reason("no-answer", why)

    def expire(self, now: float) -> None:
        """Counts those as silent that had their time."""
        for peer in self.open_peers():
            if now >= self._asked_at[peer] + HARD_SECONDS:
                self._silent[peer] = silence(HARD_SECONDS)

    def eligible(self) -> list[PeerId]:
        """Agents that the placement allows."""
        return eligible(self._placement, self.known.values())

    @property
    def is_ambiguous(self) -> bool:
        """Whether one agent was meant and several have that name."""
        return is_a_name(self._placement) and len(self.eligible()) > 1

    def open_peers(self) -> list[PeerId]:
        """Agents that may still answer in this round."""
        answered = self.bids.keys() | self._silent.keys()
        return [peer for peer in self.eligible() if peer not in answered]

    def offers(self, out: Container[PeerId] = ()) -> list[Offer]:
        """What can be reserved now. `out` names those that do not count."""
        return [
            Offer(self.known[peer].card, self.known[peer].local, bid.verdict, bid.missing_bytes)
            for peer in self.eligible()
            if (bid := self.bids.get(peer)) is not None
            and isinstance(bid.verdict, Now)
            and peer not in out
            and peer not in self.struck
        ]

    def nevers(self) -> dict[str, Never]:
        """Names of agents that can never take it, and why."""
        return {
            self.known[peer].card.name: verdict
            for peer in self.eligible()
            if isinstance(verdict := self._verdict(peer), Never)
        }

    def reasons(self) -> dict[str, tuple[Reason, ...]]:
        """Why each agent does not take it; no reason if it would."""
        return {self.known[peer].card.name: self._why_not(peer) for peer in self.eligible()}

    @property
    def may_change(self) -> bool:
        """Whether an agent that is still looked for may take what nobody takes so far."""
        hopeless = len(self.nevers()) == len(self.eligible())
        return not self.all_found and (self.round == 1 or hopeless)

    def hopeless(self, workflow: str) -> MeshError | None:
        """Why nobody will ever take it, if that is so. Once nothing may change any more."""
        eligible, nevers = self.eligible(), self.nevers()
        if not eligible:
            return no_agents(self._placement, [one.card.name for one in self.known.values()])
        if self.is_ambiguous:
            return ambiguous(self._placement, [self.known[peer].card.name for peer in eligible])
        return no_agent_fits(workflow, nevers) if len(nevers) == len(eligible) else None

    def asked(self, job: int) -> Asked:
        """Who was asked and said what, for people."""
        names = sorted(self.eligible(), key=lambda peer: (self.known[peer].card.name, peer))
        bids = [(self.known[peer].card, self.bids[peer]) for peer in names if peer in self.bids]
        silent = [self.known[peer].card for peer in names if peer not in self.bids]
        return Asked(job, tuple(bids), tuple(silent))

    def news(self, job: int, reasons: dict[str, tuple[Reason, ...]]) -> Sequence[Asked | Waiting]:
        """What to tell people while nobody takes it; nothing if that was said already."""
        said = {
            name: [each.code if each.code in VOLATILE else each for each in reasons[name]]
            for name in reasons
        }
        if said == self._said:
            return []
        first = self._said is None
        self._said = said
        waiting = Waiting(job, tuple(sorted(reasons.items())))
        return [self.asked(job), waiting] if first else [waiting]

    def _ask(self, peer: PeerId, now: float) -> list[Questioning]:
        self._asked_at[peer] = now
        return [Ask(peer, self.round), WakeAt(now + HARD_SECONDS)]

    def _verdict(self, peer: PeerId) -> object:
        if (struck := self.struck.get(peer)) is not None:
            return Never((struck,))
        bid = self.bids.get(peer)
        return bid.verdict if bid is not None else None

    def _why_not(self, peer: PeerId) -> tuple[Reason, ...]:
        if (struck := self.struck.get(peer)) is not None:
            return (struck,)
        if (bid := self.bids.get(peer)) is not None:
            return reasons_of(bid.verdict)
        return (self._silent.get(peer) or silence(HARD_SECONDS),)
