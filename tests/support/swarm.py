"""A mesh of simulated peers that run the real membership core: a heap of events is the clock.

Messages are delayed and lost, peers come, go, crash and freeze, networks split. What every peer
believes is judged against what is so. The same seed gives the same history.
"""

import heapq
from collections.abc import Callable, Generator
from dataclasses import replace
from random import Random
from typing import assert_never

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.comparing import Question, Reply, comparing, reply_to
from dstack_mesh.membership.known import Change
from dstack_mesh.membership.pace import Pace
from dstack_mesh.membership.rumour import Condition, Message, Rumour
from dstack_mesh.membership.signs import (
    Answered,
    Call,
    CallFor,
    Compare,
    Effect,
    Event,
    Helped,
    Leave,
    Met,
    Silent,
    Tick,
    Told,
)
from dstack_mesh.membership.swim import Swim
from support.swarming import Departure, Peer

LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
RUMOUR_BYTES = 110
"""About what one takes on the wire: id, number, name and one address."""

MakeSwim = Callable[[Rumour, Random, float, Pace | None], Swim]


class Swarm:
    """Peers and the network between them.

    Args:
        seed: Of all randomness.
        loss: Share of messages that never arrive.
        delay: Longest time that a message takes, in seconds.
        make: Makes the core of a peer.
        pace: The numbers of the core.
    """

    def __init__(
        self,
        seed: int | float | str,
        loss: float = 0.0,
        delay: float = 0.03,
        make: MakeSwim = Swim,
        pace: Pace | None = None,
    ) -> None:
        self.random = Random(seed)
        self.loss = loss
        self.delay = delay
        self.now = 0.0
        self.peers: dict[PeerId, Peer] = {}
        self.departures: list[Departure] = []
        self.false_deaths: list[tuple[float, PeerId, PeerId]] = []
        self.suspicions = 0
        self.messages = 0
        self.rumours = 0
        self.most_rumours = 0
        self.peer_seconds = 0.0
        self._make = make
        self._pace = pace
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._counted_at = 0.0

    # What a test does

    def start(self, count: int) -> None:
        """Peers that know each other already."""
        peers = [self._add() for _ in range(count)]
        for peer in peers:
            words = [other.swim.word for other in peers if other is not peer]
            for first in range(0, len(words), 64):
                page = tuple(words[first : first + 64])
                self._handle(peer, Told(Message(words[0], page)))
            # What everybody knows is not news.
            while peer.swim.message(PeerId("")).rumours:
                pass

    def join(self) -> Peer:
        """A new peer that met one of the others."""
        seed = self.random.choice(list(self.peers.values()))
        peer = self._add()
        peer.side = seed.side
        self._handle(peer, Met(replace(seed.swim.word, incarnation=0)))
        return peer

    def crash(self, peer_id: PeerId | None = None) -> Departure:
        """One is gone without a word."""
        return self._depart(peer_id or self._anybody(), left=False)

    def leave(self, peer_id: PeerId | None = None) -> Departure:
        """One says that it goes, and is gone half a second later."""
        peer = self.peers[peer_id or self._anybody()]
        self._handle(peer, Leave())
        departure = self._note_departure(peer, left=True)
        self.at(self.now + 0.5, lambda: self._remove(peer))
        return departure

    def freeze(self, peer_id: PeerId, seconds: float) -> None:
        """One stands still, and hears afterwards what it was told meanwhile."""
        peer = self.peers[peer_id]
        peer.frozen = True

        def thaw() -> None:
            peer.frozen = False
            waiting, peer.waiting = peer.waiting, []
            for event, then in waiting:
                self._handle(peer, event)
                if then is not None:
                    then()
            self._handle(peer, Tick())

        self.at(self.now + seconds, thaw)

    def split(self, sides: int) -> None:
        """Cuts the network; each peer is on one side."""
        for number, peer in enumerate(self.peers.values()):
            peer.side = number % sides

    def heal(self) -> None:
        for peer in self.peers.values():
            peer.side = 0

    def churn(self, per_hour: float, until: float) -> None:
        """Joins, leaves and crashes, a third each, in all this share of the peers in an hour."""
        events = len(self.peers) * per_hour / 3600
        moment = self.now + self.random.expovariate(events)
        while moment < until:
            self.at(moment, self.random.choice([self.join, self.leave, self.crash]))
            moment += self.random.expovariate(events)

    def run(self, until: float) -> None:
        """Lets time pass."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, act = heapq.heappop(self._heap)
            act()
        self.now = until
        self._count()

    def at(self, moment: float, act: Callable[[], object]) -> None:
        """Does something later."""
        self._sequence += 1
        heapq.heappush(self._heap, (moment, self._sequence, lambda: (act(), None)[1]))

    # What a test sees

    def standings(self, peer_id: PeerId) -> dict[PeerId, str]:
        """What everybody else believes about one."""
        found: dict[PeerId, str] = {}
        for other in self.peers.values():
            member = other.swim.member(peer_id)
            if other.peer_id != peer_id:
                found[other.peer_id] = member.standing if member else "unknown"
        return found

    def all_alive(self) -> bool:
        """Whether everybody believes that everybody is alive."""
        return all(set(self.standings(one).values()) == {"alive"} for one in self.peers)

    @property
    def messages_each(self) -> float:
        """Messages that a peer sent in a second."""
        return self.messages / self.peer_seconds

    @property
    def rumour_bytes_each(self) -> float:
        """Bytes of rumours that a peer sent in a second, about."""
        return self.rumours * RUMOUR_BYTES / self.peer_seconds

    def slowest(self, left: bool) -> float:
        """Longest time until a crash, or a leave, was known everywhere; infinity if one is not."""
        times = [
            (one.known_at if one.known_at is not None else float("inf")) - one.at
            for one in self.departures
            if one.left is left
        ]
        return max(times, default=0.0)

    # Peers

    def _add(self) -> Peer:
        self._count()
        peer_id = PeerId("".join(self.random.choices(LETTERS, k=32)))
        address = Address(f"10.0.0.{len(self.peers)}:7420")
        began = int((self.now + 1.7e9) * 1000)
        word = Rumour(peer_id, began, Condition.ALIVE, AgentState.ALIVE, peer_id[:4], (address,))
        swim = self._make(word, Random(self.random.random()), self.now, self._pace)
        peer = self.peers[peer_id] = Peer(peer_id, swim)
        return peer

    def _anybody(self) -> PeerId:
        return self.random.choice(
            [one.peer_id for one in self.peers.values() if not one.swim.leaving]
        )

    def _depart(self, peer_id: PeerId, left: bool) -> Departure:
        peer = self.peers[peer_id]
        departure = self._note_departure(peer, left)
        self._remove(peer)
        return departure

    def _note_departure(self, peer: Peer, left: bool) -> Departure:
        unaware = {
            other.peer_id
            for other in self.peers.values()
            if (member := other.swim.member(peer.peer_id)) is not None and member.living
        }
        departure = Departure(peer.peer_id, self.now, left, unaware)
        self.departures.append(departure)
        return departure

    def _remove(self, peer: Peer) -> None:
        self._count()
        if self.peers.pop(peer.peer_id, None) is not None:
            for departure in self.departures:
                self._aware(departure, peer.peer_id)

    def _count(self) -> None:
        self.peer_seconds += len(self.peers) * (self.now - self._counted_at)
        self._counted_at = self.now

    # Events and effects

    def _handle(self, peer: Peer, event: Event, then: Callable[[], None] | None = None) -> None:
        if peer.peer_id not in self.peers:
            return
        if peer.frozen:
            peer.waiting.append((event, then))
            return
        for effect in peer.swim.handle(event, self.now):
            self._do(peer, effect)
        due = peer.swim.next_due()
        if due < peer.tick_at:
            peer.tick_at = due
            self.at(max(due, self.now), lambda: self._tick(peer, due))
        if then is not None:
            then()

    def _tick(self, peer: Peer, due: float) -> None:
        if due == peer.tick_at and not peer.frozen:
            peer.tick_at = float("inf")
            self._handle(peer, Tick())
        elif due == peer.tick_at:
            peer.tick_at = float("inf")

    def _do(self, peer: Peer, effect: Effect) -> None:
        match effect:
            case Call():
                self._call(peer, effect)
            case CallFor():
                self._call_for(peer, effect)
            case Compare():
                self._compare(peer, effect.peer_id)
            case Change():
                self._changed(peer, effect)
            case _:
                assert_never(effect)

    def _call(self, peer: Peer, call: Call) -> None:
        def answered(message: Message) -> None:
            self._handle(peer, Answered(call.number, message))

        def silent() -> None:
            self._handle(peer, Silent(call.number))

        self._ask(peer, call.peer_id, call.message, call.within, answered, silent)

    def _call_for(self, peer: Peer, call: CallFor) -> None:
        over: list[bool] = []

        def end(event: Event) -> None:
            if not over:
                over.append(True)
                self._handle(peer, event)

        def at_helper() -> None:
            helper = self.peers.get(call.helper)
            if helper is None or helper.frozen:
                return

            def say(reached: bool) -> None:
                self._send(helper, peer.peer_id, 0, lambda: end(Helped(call.number, reached)))

            def reached(message: Message) -> None:
                self._handle(helper, Told(message))
                say(True)

            message = helper.swim.message(call.peer_id)
            within = call.within * 0.8 - 2 * self.delay
            self._ask(helper, call.peer_id, message, within, reached, lambda: say(False))

        self.at(self.now + call.within, lambda: end(Silent(call.number)))
        self._send(peer, call.helper, 0, at_helper)

    def _ask(
        self,
        peer: Peer,
        target: PeerId,
        message: Message,
        within: float,
        answered: Callable[[Message], None],
        silent: Callable[[], None],
    ) -> None:
        over: list[bool] = []

        def at_target() -> None:
            other = self.peers.get(target)
            if other is not None:
                self._handle(other, Told(message), lambda: back(other))

        def back(other: Peer) -> None:
            reply = other.swim.message(peer.peer_id)
            self._send(other, peer.peer_id, len(reply.rumours), lambda: end(reply))

        def end(reply: Message) -> None:
            if not over:
                over.append(True)
                answered(reply)

        def give_up() -> None:
            if not over:
                over.append(True)
                silent()

        self.at(self.now + within, give_up)
        self._send(peer, target, len(message.rumours), at_target)

    def _compare(self, peer: Peer, target: PeerId) -> None:
        steps = comparing(peer.swim)

        def ask(question: Question) -> None:
            def at_target() -> None:
                other = self.peers.get(target)
                if other is not None:
                    self._handle(other, Told(question.message), lambda: back(other))

            def back(other: Peer) -> None:
                reply = reply_to(other.swim, question)
                count = len(reply.message.rumours)
                self._send(other, peer.peer_id, count, lambda: step(reply))

            self._send(peer, target, len(question.message.rumours), at_target)

        def step(reply: Reply) -> None:
            self._handle(peer, Told(reply.message), lambda: _advance(steps, reply, ask))

        ask(next(steps))

    def _send(self, peer: Peer, target: PeerId, rumours: int, arrive: Callable[[], None]) -> None:
        self.messages += 1
        self.rumours += rumours + 1
        self.most_rumours = max(self.most_rumours, rumours)
        there = self.peers.get(target)
        if self.random.random() < self.loss or (there is not None and there.side != peer.side):
            return
        self.at(self.now + self.random.uniform(0.001, self.delay), arrive)

    # The judge

    def _changed(self, peer: Peer, change: Change) -> None:
        self.suspicions += change.now == "suspect"
        if change.now in ("gone", "left"):
            about = self.peers.get(change.peer_id)
            if about is None or about.swim.leaving:
                for departure in self.departures:
                    if departure.peer_id == change.peer_id:
                        self._aware(departure, peer.peer_id)
            elif not about.frozen and about.side == peer.side:
                self.false_deaths.append((self.now, peer.peer_id, change.peer_id))

    def _aware(self, departure: Departure, peer_id: PeerId) -> None:
        departure.unaware.discard(peer_id)
        if not departure.unaware and departure.known_at is None:
            departure.known_at = self.now


def _advance(
    steps: Generator[Question, Reply, None], reply: Reply, ask: Callable[[Question], None]
) -> None:
    try:
        question = steps.send(reply)
    except StopIteration:
        return
    ask(question)
