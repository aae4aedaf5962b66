"""The auction of a gang: jobs that start together or not at all, such as the nodes of a training.

A round asks every agent once. If those that could start a node now have room for all nodes, the
nodes are seated: on as many agents as possible, best first, several on one only where there are no
more agents. Seats are taken one after the other in the order of the agents' ids. The first one that
is not free any more gives all of them back, and the next choice is made without it.

So no two gangs wait for each other with half of what they need: nobody waits while it holds, and of
all gangs that want the same agents the one that holds the highest id is in nobody's way and gets
the rest (Havender's ordered allocation, with a refusal in place of the wait). What does not fit now
waits without a hold, and says for whom.
"""

from collections import Counter
from collections.abc import Callable
from typing import assert_never

from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_scheduler.agent_port import Hold
from dstack_scheduler.auction import (
    PASSING,
    REFUSALS,
    is_superseded,
    pause_seconds,
)
from dstack_scheduler.auction_events import (
    AllFound,
    Answered,
    Ask,
    Found,
    GiveUp,
    Look,
    Lot,
    Silent,
    Tell,
    Tick,
    WakeAt,
)
from dstack_scheduler.placement import Offer, ranked
from dstack_scheduler.poll import SOFT_SECONDS, Poll
from dstack_scheduler.refusal import NoAgentFits, refusal
from dstack_scheduler.verdict import Reason

INCOMPLETE = "gang-incomplete"
"""Code of the reason of an agent that could take a node while others cannot."""


@frozen
class Seated:
    """An agent holds for a node."""

    node: int
    peer: PeerId
    hold: Hold


@frozen
class Unseated:
    """The reservation, the bytes or the award of a node failed for sure."""

    node: int
    peer: PeerId
    error: MeshError


GangEvent = Found | AllFound | Answered | Silent | Seated | Unseated | Tick


@frozen
class Take:
    """Reserve for a node; answered by `Seated` or `Unseated`."""

    node: int
    peer: PeerId


@frozen
class GiveBack:
    """Give back every hold, before anything else is reserved."""


@frozen
class Seat:
    """Where a node starts."""

    node: int
    peer: PeerId
    hold: Hold


@frozen
class Start:
    """Every node has a seat: bring and award them all. `Unseated` if one fails for sure."""

    seats: tuple[Seat, ...]


GangEffect = Look | Ask | Take | GiveBack | Start | WakeAt | Tell | GiveUp


@frozen
class _Asking:
    began: float


@frozen
class _Seating:
    """`order` has what is still to be taken, first the one that is being taken."""

    order: tuple[tuple[PeerId, int], ...]
    seats: tuple[Seat, ...] = ()


@frozen
class _Waiting:
    until: float


@frozen
class _Over:
    pass


class Gang:
    """Decides. `chance` gives numbers from [0, 1).

    Args:
        lot: Of any node: all need the same.
    """

    def __init__(self, lot: Lot, nodes: int, chance: Callable[[], float]) -> None:
        self._lot = lot
        self._nodes = nodes
        self._chance = chance
        self._phase: _Asking | _Seating | _Waiting | _Over = _Waiting(0.0)
        self._poll = Poll(lot.placement)
        self._room: dict[PeerId, int] = {}
        self._refused: Counter[PeerId] = Counter()
        self._waits = 0

    def start(self, now: float) -> list[GangEffect]:
        """Opens the first round."""
        return self._open(now)

    def handle(self, event: GangEvent, now: float) -> list[GangEffect]:
        """What to do after something happened."""
        if isinstance(self._phase, _Over):
            return []
        match event:
            case Found():
                return [*self._poll.found(event, now, isinstance(self._phase, _Asking))]
            case AllFound() | Answered() | Silent():
                self._poll.hear(event)
                return self._decide(now)
            case Seated():
                return self._seated(event)
            case Unseated():
                return self._unseated(event, now)
            case Tick():
                return self._tick(now)
            case _:
                assert_never(event)

    def _open(self, now: float) -> list[GangEffect]:
        self._phase = _Asking(now)
        self._room.clear()
        return [*self._poll.open(now)]

    def _tick(self, now: float) -> list[GangEffect]:
        match self._phase:
            case _Waiting(until):
                return self._open(now) if now >= until else [WakeAt(until)]
            case _Asking():
                self._poll.expire(now)
                return self._decide(now)
            case _Seating() | _Over():
                return []

    def _decide(self, now: float) -> list[GangEffect]:
        if not isinstance(self._phase, _Asking):
            return []
        poll = self._poll
        settled = poll.all_found and not poll.open_peers()
        if len(self._choice()) == self._nodes and not poll.is_ambiguous:
            if settled or now - self._phase.began >= SOFT_SECONDS:
                return [Tell(poll.asked(self._lot.job)), *self._take(now)]
            return []
        return [] if poll.open_peers() else self._nobody(now)

    def _take(self, now: float) -> list[GangEffect]:
        """Takes the seats of the best choice, the agent with the lowest id first."""
        choice = self._choice()
        if len(choice) < self._nodes:
            self._waits = 0
            return self._wait(now)
        order = sorted((peer, node) for node, peer in enumerate(choice))
        self._phase = _Seating(tuple(order))
        return self._next(self._phase)

    def _next(self, phase: _Seating) -> list[GangEffect]:
        if phase.order:
            peer, node = phase.order[0]
            return [Take(node, peer)]
        return [Start(tuple(sorted(phase.seats, key=lambda seat: seat.node)))]

    def _seated(self, event: Seated) -> list[GangEffect]:
        phase = self._phase
        if not isinstance(phase, _Seating) or phase.order[:1] != ((event.peer, event.node),):
            return []
        seat = Seat(event.node, event.peer, event.hold)
        self._phase = _Seating(phase.order[1:], (*phase.seats, seat))
        return self._next(self._phase)

    def _unseated(self, event: Unseated, now: float) -> list[GangEffect]:
        phase, peer = self._phase, event.peer
        if not isinstance(phase, _Seating):
            return []
        if is_superseded(event.error):
            return [GiveBack(), *self._give_up(event.error)]
        self._refused[peer] += isinstance(event.error, Refused)
        if not isinstance(event.error, PASSING) or self._refused[peer] >= REFUSALS:
            self._poll.struck[peer] = refusal(event.error)
        others = (seat for seat in phase.seats if seat.peer == peer and seat.node != event.node)
        self._room[peer] = len(tuple(others))
        return [GiveBack(), *self._take(now)]

    def _nobody(self, now: float) -> list[GangEffect]:
        """All that were asked answered or are silent, and there is no room for all nodes."""
        poll, job = self._poll, self._lot.job
        if poll.may_change:
            return []
        error = poll.hopeless(self._lot.workflow)
        if error is not None:
            told = [Tell(poll.asked(job))] if isinstance(error, NoAgentFits) else []
            return [*told, *self._give_up(error)]
        return [*(Tell(each) for each in poll.news(job, self._reasons())), *self._wait(now)]

    def _reasons(self) -> dict[str, tuple[Reason, ...]]:
        """Why each agent does not start what it could: the others have no room."""
        reasons = self._poll.reasons()
        taken = Counter(self._choice())
        for peer, nodes in taken.items():
            message = (
                f"It could start {nodes} of {self._nodes} nodes now; all start together or none."
            )
            reasons[self._poll.known[peer].card.name] = (Reason(INCOMPLETE, message),)
        return reasons

    def _wait(self, now: float) -> list[GangEffect]:
        until = now + pause_seconds(self._waits, self._chance())
        self._waits += 1
        self._phase = _Waiting(until)
        return [WakeAt(until)]

    def _give_up(self, error: MeshError) -> list[GangEffect]:
        self._phase = _Over()
        return [GiveUp(error)]

    def _choice(self) -> list[PeerId]:
        """An agent for each node, as far as there is room: every agent once, then again."""
        offers = ranked(self._poll.offers())
        room = {offer.card.peer_id: self._room_of(offer) for offer in offers}
        chosen: list[PeerId] = []
        while len(chosen) < self._nodes and any(room.values()):
            for peer in [peer for peer in room if room[peer]][: self._nodes - len(chosen)]:
                room[peer] -= 1
                chosen.append(peer)
        return chosen

    def _room_of(self, offer: Offer) -> int:
        """How many nodes an agent may have room for: what it refused, else what its cards allow."""
        refused = self._room.get(offer.card.peer_id)
        if refused is not None:
            return refused
        gpus = self._lot.gpus
        return 1 + offer.now.gpus_left // gpus if gpus else self._nodes
