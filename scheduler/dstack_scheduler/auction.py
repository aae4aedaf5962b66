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
from dstack_scheduler.agent_port import OTHER_THAN, Hold
from dstack_scheduler.auction_events import (
    AllFound,
    Answered,
    Ask,
    Award,
    Declined,
    Effect,
    Event,
    Found,
    GiveUp,
    Held,
    Look,
    Lot,
    Reserve,
    Silent,
    Tell,
    Tick,
    WakeAt,
)
from dstack_scheduler.placement import Offer, Wish, ranked, reason
from dstack_scheduler.progress import Asked, Waiting
from dstack_scheduler.refusal import (
    ambiguous,
    no_agent_fits,
    no_agents,
    reasons_of,
    refusal,
    silence,
)
from dstack_scheduler.verdict import Bid, Never, Now, Reason

SOFT_SECONDS = 0.25
HARD_SECONDS = 1.0
SHORTEST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 1.0

PASSING = (Busy, Conflict, Missing, Refused, TooLate, Unreachable)
"""Errors of an agent that say nothing about the next time."""

REFUSALS = 3
"""After so many an agent that said now is not believed any more."""

VOLATILE = frozenset({"memory-busy", "disk-full", "cpu-busy"})
"""Codes whose messages carry a number that changes all the time."""


SUPERSEDED = "epoch"
"""Code of the conflict that says that another driver has taken the run over."""


def is_superseded(error: MeshError) -> bool:
    """Whether this driver is not the run's driver any more."""
    return isinstance(error, Conflict) and error.code == SUPERSEDED


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
        self._known: dict[PeerId, Found] = {}
        self._round = 0
        self._all_found = False
        self._asked_at: dict[PeerId, float] = {}
        self._bids: dict[PeerId, Bid] = {}
        self._silent: dict[PeerId, Reason] = {}
        self._tried: set[PeerId] = set()
        self._struck: dict[PeerId, Reason] = {}
        self._refused: Counter[PeerId] = Counter()
        self._waits = 0
        self._said: object = None

    def start(self, now: float) -> list[Effect]:
        """Opens the first round."""
        return self._open(now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do after something happened."""
        if isinstance(self._phase, _Over):
            return []
        match event:
            case Found():
                return self._found(event, now)
            case AllFound() | Answered() | Silent():
                if event.round == self._round:
                    self._hear(event)
                return self._decide(now)
            case Held(peer, hold):
                return self._award(peer, hold)
            case Declined(peer, error):
                return self._declined(peer, error, now)
            case Tick():
                return self._tick(now)
            case _:
                assert_never(event)

    def _hear(self, event: AllFound | Answered | Silent) -> None:
        match event:
            case AllFound():
                self._all_found = True
            case Answered(peer, _, bid):
                self._bids[peer] = bid
                self._silent.pop(peer, None)
            case Silent(peer, _, why):
                self._silent[peer] = Reason("no-answer", why)

    def _open(self, now: float) -> list[Effect]:
        self._round += 1
        self._phase = _Asking(now)
        self._all_found = False
        self._asked_at.clear()
        self._bids.clear()
        self._silent.clear()
        self._tried.clear()
        asks = [effect for peer in self._eligible() for effect in self._ask(peer, now)]
        return [Look(self._round), *asks, WakeAt(now + SOFT_SECONDS)]

    def _ask(self, peer: PeerId, now: float) -> list[Effect]:
        self._asked_at[peer] = now
        return [Ask(peer, self._round), WakeAt(now + HARD_SECONDS)]

    def _found(self, found: Found, now: float) -> list[Effect]:
        peer = found.card.peer_id
        self._known[peer] = found
        asking = isinstance(self._phase, _Asking | _Trying)
        if asking and peer not in self._asked_at and peer in self._eligible():
            return self._ask(peer, now)
        return []

    def _tick(self, now: float) -> list[Effect]:
        match self._phase:
            case _Waiting(until):
                return self._open(now) if now >= until else [WakeAt(until)]
            case _Asking() | _Trying():
                for peer in self._open_peers():
                    if now >= self._asked_at[peer] + HARD_SECONDS:
                        self._silent[peer] = silence(HARD_SECONDS)
                return self._decide(now)
            case _Over():
                return []

    def _decide(self, now: float) -> list[Effect]:
        if not isinstance(self._phase, _Asking):
            return []
        offers = self._offers()
        if offers and self._settled(offers, now - self._phase.began):
            told: list[Effect] = [Tell(self._asked())]
            return told + self._try_next(now)
        if offers or self._open_peers():
            return []
        return self._nobody(now)

    def _settled(self, offers: list[Offer], since: float) -> bool:
        """Whether nothing that is still open may or should change the winner."""
        first = ranked(offers)[0]
        if self._is_named(first.card) or (first.local and not self._by_name):
            return True
        return since >= SOFT_SECONDS or (self._all_found and not self._open_peers())

    def _nobody(self, now: float) -> list[Effect]:
        """All that were asked answered or are silent, and none can now."""
        eligible = self._eligible()
        nevers = self._nevers(eligible)
        hopeless = len(nevers) == len(eligible)
        if not self._all_found and (self._round == 1 or hopeless):
            return []
        names = [found.card.name for found in self._known.values()]
        if not eligible:
            return self._give_up(no_agents(self._lot.placement, names))
        if self._is_ambiguous(eligible):
            return self._give_up(
                ambiguous(self._lot.placement, [self._known[peer].card.name for peer in eligible])
            )
        if hopeless:
            told: list[Effect] = [Tell(self._asked())]
            return told + self._give_up(no_agent_fits(self._lot.workflow, nevers))
        return self._say_waiting() + self._wait(now)

    def _nevers(self, eligible: list[PeerId]) -> dict[str, Never]:
        return {
            self._known[peer].card.name: verdict
            for peer in eligible
            if isinstance(verdict := self._verdict(peer), Never)
        }

    def _say_waiting(self) -> list[Effect]:
        reasons = {self._known[peer].card.name: self._why_not(peer) for peer in self._eligible()}
        said = {
            name: [each.code if each.code in VOLATILE else each for each in reasons[name]]
            for name in reasons
        }
        if said == self._said:
            return []
        first = self._said is None
        self._said = said
        waiting = Tell(Waiting(self._lot.job, tuple(sorted(reasons.items()))))
        return [Tell(self._asked()), waiting] if first else [waiting]

    def _wait(self, now: float) -> list[Effect]:
        longest = min(LONGEST_WAIT_SECONDS, SHORTEST_WAIT_SECONDS * 2**self._waits)
        self._waits = min(self._waits + 1, 8)
        until = now + longest * (0.5 + self._chance() / 2)
        self._phase = _Waiting(until)
        return [WakeAt(until)]

    def _try_next(self, now: float) -> list[Effect]:
        offers = ranked(offer for offer in self._offers())
        if self._is_ambiguous(self._eligible()):
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
            self._struck[peer] = refusal(error)
        return self._try_next(now)

    def _give_up(self, error: MeshError) -> list[Effect]:
        self._phase = _Over()
        return [GiveUp(error)]

    def _eligible(self) -> list[PeerId]:
        """Agents that the placement allows."""
        placement = self._lot.placement
        match placement:
            case "":
                return list(self._known)
            case "local":
                return [peer for peer, found in self._known.items() if found.local]
            case "remote":
                return [peer for peer, found in self._known.items() if not found.local]
            case _ if placement.startswith(OTHER_THAN):
                return [peer for peer in self._known if peer != placement.removeprefix(OTHER_THAN)]
            case _:
                cards = [found.card for found in self._known.values()]
                exact = [card.peer_id for card in cards if self._is_named(card)]
                return exact or [
                    card.peer_id
                    for card in cards
                    if card.name.startswith(placement) or card.peer_id.startswith(placement)
                ]

    def _is_named(self, card: PeerCard) -> bool:
        return self._lot.placement in (card.name, card.peer_id)

    def _is_ambiguous(self, eligible: list[PeerId]) -> bool:
        return self._by_name and len(eligible) > 1

    @property
    def _by_name(self) -> bool:
        word = self._lot.placement
        return word not in ("", "local", "remote") and not word.startswith(OTHER_THAN)

    def _open_peers(self) -> list[PeerId]:
        answered = self._bids.keys() | self._silent.keys()
        return [peer for peer in self._eligible() if peer not in answered]

    def _verdict(self, peer: PeerId) -> object:
        if (struck := self._struck.get(peer)) is not None:
            return Never((struck,))
        bid = self._bids.get(peer)
        return bid.verdict if bid is not None else None

    def _why_not(self, peer: PeerId) -> tuple[Reason, ...]:
        if (struck := self._struck.get(peer)) is not None:
            return (struck,)
        if (bid := self._bids.get(peer)) is not None:
            return reasons_of(bid.verdict)
        return (self._silent.get(peer) or silence(HARD_SECONDS),)

    def _offers(self) -> list[Offer]:
        """What can be reserved now and was not tried in this round."""
        out = self._tried | self._struck.keys()
        return [
            Offer(self._known[peer].card, self._known[peer].local, bid.verdict, bid.missing_bytes)
            for peer in self._eligible()
            if (bid := self._bids.get(peer)) is not None
            and isinstance(bid.verdict, Now)
            and peer not in out
        ]

    def _wish(self, offers: list[Offer]) -> Wish:
        lot = self._lot
        return Wish(
            gpus=lot.gpus,
            input_bytes=lot.input_bytes,
            asked_for=self._by_name,
            others=len(self._bids) - len(offers),
            unheard=len(self._known) - len(self._bids),
        )

    def _asked(self) -> Asked:
        names = sorted(self._eligible(), key=lambda peer: (self._known[peer].card.name, peer))
        bids = [(self._known[peer].card, self._bids[peer]) for peer in names if peer in self._bids]
        silent = [self._known[peer].card for peer in names if peer not in self._bids]
        return Asked(self._lot.job, tuple(bids), tuple(silent))
