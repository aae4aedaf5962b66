"""The auction of one job: what happened goes in, what to do now comes out.

A round asks every agent that may take the job, all at once. It is decided as soon as nothing that
is still open can change the winner: all answered, or the first choice of the order (this machine,
or the agent that was named) said now. After the soft deadline any "now" is good enough; after the
hard deadline an agent counts as silent. The winner is reserved; if somebody was faster the next
best is tried, then everybody is asked again.

If nobody can now, the job waits and asks again. That wait (`_wait`, and the events that `_Waiting`
takes) is the border for late binding: reservations that wait at every agent, the first free one
claiming the job, replace the pause between two rounds and nothing else.
"""

from collections import Counter
from collections.abc import Callable
from typing import assert_never

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import Busy, Conflict, MeshError, Missing, Refused, TooLate, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_scheduler.agent_port import Hold
from dstack_scheduler.auction_events import (
    AllFound,
    Answered,
    Award,
    Declined,
    Effect,
    Event,
    Found,
    GiveUp,
    Held,
    Lot,
    Reserve,
    Silent,
    Tell,
    Tick,
    WakeAt,
)
from dstack_scheduler.eligible import is_a_name, is_named
from dstack_scheduler.placement import Offer, Wish, ranked, reason
from dstack_scheduler.poll import SOFT_SECONDS, Poll
from dstack_scheduler.refusal import NoAgentFits, refusal

SHORTEST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 1.0

PASSING = (Busy, Conflict, Missing, Refused, TooLate, Unreachable)
"""Errors of an agent that say nothing about the next time."""

REFUSALS = 3
"""After so many an agent that said now is not believed any more."""

SUPERSEDED = "epoch"
"""Code of the conflict that says that another driver has taken the run over."""


def is_superseded(error: MeshError) -> bool:
    """Whether this driver is not the run's driver any more."""
    return isinstance(error, Conflict) and error.code == SUPERSEDED


def pause_seconds(waits: int, chance: float) -> float:
    """Before everybody is asked again, after so many times; `chance` is from [0, 1)."""
    longest = min(LONGEST_WAIT_SECONDS, SHORTEST_WAIT_SECONDS * 2 ** min(waits, 8))
    return longest * (0.5 + chance / 2)


@frozen
class _Asking:
    began: float


@frozen
class _Trying:
    peer: PeerId
    why: str


@frozen
class _Waiting:
    until: float


@frozen
class _Over:
    pass


class Auction:
    """Decides. `chance` gives numbers from [0, 1)."""

    def __init__(self, lot: Lot, chance: Callable[[], float]) -> None:
        self._lot = lot
        self._chance = chance
        self._phase: _Asking | _Trying | _Waiting | _Over = _Waiting(0.0)
        self._poll = Poll(lot.placement)
        self._tried: set[PeerId] = set()
        self._refused: Counter[PeerId] = Counter()
        self._waits = 0

    def start(self, now: float) -> list[Effect]:
        """Opens the first round."""
        return self._open(now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do after something happened."""
        if isinstance(self._phase, _Over):
            return []
        match event:
            case Found():
                asking = isinstance(self._phase, _Asking | _Trying)
                return [*self._poll.found(event, now, asking)]
            case AllFound() | Answered() | Silent():
                self._poll.hear(event)
                return self._decide(now)
            case Held(peer, hold):
                return self._award(peer, hold)
            case Declined(peer, error):
                return self._declined(peer, error, now)
            case Tick():
                return self._tick(now)
            case _:
                assert_never(event)

    def _open(self, now: float) -> list[Effect]:
        self._phase = _Asking(now)
        self._tried.clear()
        return [*self._poll.open(now)]

    def _tick(self, now: float) -> list[Effect]:
        match self._phase:
            case _Waiting(until):
                return self._open(now) if now >= until else [WakeAt(until)]
            case _Asking() | _Trying():
                self._poll.expire(now)
                return self._decide(now)
            case _Over():
                return []

    def _decide(self, now: float) -> list[Effect]:
        if not isinstance(self._phase, _Asking):
            return []
        offers = self._offers()
        if offers and self._settled(offers, now - self._phase.began):
            told: list[Effect] = [Tell(self._poll.asked(self._lot.job))]
            return told + self._try_next(now)
        if offers or self._poll.open_peers():
            return []
        return self._nobody(now)

    def _settled(self, offers: list[Offer], since: float) -> bool:
        """Whether nothing that is still open may or should change the winner."""
        first = ranked(offers)[0]
        if self._is_named(first.card) or (first.local and not self._by_name):
            return True
        poll = self._poll
        return since >= SOFT_SECONDS or (poll.all_found and not poll.open_peers())

    def _nobody(self, now: float) -> list[Effect]:
        """All that were asked answered or are silent, and none can now."""
        poll, job = self._poll, self._lot.job
        if poll.may_change:
            return []
        error = poll.hopeless(self._lot.workflow)
        if error is not None:
            told = [Tell(poll.asked(job))] if isinstance(error, NoAgentFits) else []
            return [*told, *self._give_up(error)]
        return [*(Tell(each) for each in poll.news(job, poll.reasons())), *self._wait(now)]

    def _wait(self, now: float) -> list[Effect]:
        until = now + pause_seconds(self._waits, self._chance())
        self._waits += 1
        self._phase = _Waiting(until)
        return [WakeAt(until)]

    def _try_next(self, now: float) -> list[Effect]:
        offers = ranked(self._offers())
        if self._poll.is_ambiguous:
            return self._nobody(now)
        if not offers:
            self._waits = 0
            return self._wait(now)
        best, rest = offers[0], offers[1:]
        self._phase = _Trying(best.card.peer_id, reason(best, rest, self._wish(offers)))
        return [Reserve(best.card.peer_id)]

    def _award(self, peer: PeerId, hold: Hold) -> list[Effect]:
        match self._phase:
            case _Trying(trying, why) if trying == peer:
                return [Award(peer, hold, why)]
            case _:
                return []

    def _declined(self, peer: PeerId, error: MeshError, now: float) -> list[Effect]:
        if not isinstance(self._phase, _Trying) or self._phase.peer != peer:
            return []
        if is_superseded(error):
            return self._give_up(error)
        self._tried.add(peer)
        self._refused[peer] += isinstance(error, Refused)
        if not isinstance(error, PASSING) or self._refused[peer] >= REFUSALS:
            self._poll.struck[peer] = refusal(error)
        return self._try_next(now)

    def _give_up(self, error: MeshError) -> list[Effect]:
        self._phase = _Over()
        return [GiveUp(error)]

    def _is_named(self, card: PeerCard) -> bool:
        return is_named(self._lot.placement, card)

    @property
    def _by_name(self) -> bool:
        return is_a_name(self._lot.placement)

    def _offers(self) -> list[Offer]:
        """What can be reserved now and was not tried in this round."""
        return self._poll.offers(self._tried)

    def _wish(self, offers: list[Offer]) -> Wish:
        lot, poll = self._lot, self._poll
        return Wish(
            gpus=lot.gpus,
            input_bytes=lot.input_bytes,
            asked_for=self._by_name,
            others=len(poll.bids) - len(offers),
            unheard=len(poll.known) - len(poll.bids),
        )
