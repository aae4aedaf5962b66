"""Who may be there: whom to greet, and when. Pure: events and the time go in, effects come out.

    heard of an address ── dial as "any member" ── it names its id ── dial by id ── alive
    alive ── 2 rounds without answer ── suspect ── 4 rounds and 10 s ── gone ── 10 min ── forgotten
    any answer: alive again

A round is one try at each address of the agent. What others say about a peer only adds addresses.
A daemon greets an agent until it has answered once, and hands it to `membership.swim`, which keeps
watch over it from then on (`Policy.interval` is infinite) and says when a sign of it matters again.
"""

from collections.abc import Iterator
from itertools import chain
from random import Random
from typing import TypeVar, assert_never

from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import FoundBy, KnownAgent, Target
from dstack_mesh.membership.place import Place, Policy, may_dial


@frozen
class Heard:
    """An agent may be there.

    Attributes:
        target: Where, and who if that was said.
        found_by: How we know.
        card: What is remembered of it, if anything.
        fresh: It gave a sign itself just now, so a pause between tries ends.
    """

    target: Target
    found_by: FoundBy
    card: PeerCard | None = None
    fresh: bool = False


@frozen
class Answered:
    """The dial succeeded."""

    target: Target
    answer: HelloAnswer


@frozen
class Failed:
    """The dial did not. `foreign`: somebody who is not of our mesh is there."""

    target: Target
    foreign: bool = False


@frozen
class Tick:
    """Time passed."""


@frozen
class Doubted:
    """Membership does not hear an agent any more: another sign of it is followed at once."""

    peer_id: PeerId


@frozen
class Dropped:
    """Membership forgot an agent."""

    peer_id: PeerId


Event = Heard | Answered | Failed | Tick | Doubted | Dropped


@frozen
class Dial:
    """Greet this target and report Answered or Failed."""

    target: Target
    cause: str


@frozen
class Forget:
    """Nothing is kept for these targets any more."""

    targets: tuple[Target, ...]
    cause: str


Effect = Dial | Forget

_Key = TypeVar("_Key", PeerId, Address)


class View:
    """The agents that one peer knows.

    Args:
        own: Who we are; we never dial ourselves.
        random: Spreads dials, so that agents that started together do not stay together.
        policy: How to behave.
    """

    def __init__(self, own: PeerId, random: Random, policy: Policy | None = None) -> None:
        self._own = own
        self._random = random
        self._policy = policy or Policy()
        self._agents: dict[PeerId, Place] = {}
        self._strangers: dict[Address, Place] = {}
        self._second_began = float("-inf")
        self._stranger_dials = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Takes an event in and says what to do. Events about what is unknown do nothing."""
        dropped: list[Forget] = []
        match event:
            case Heard():
                self._heard(event, now)
            case Answered(target, answer):
                self._answered(target, answer, now)
            case Failed(target, foreign):
                self._failed(target, foreign, now)
            case Tick():
                pass
            case Doubted(peer_id):
                self._doubt(peer_id, now)
            case Dropped(peer_id):
                dropped = self._drop(peer_id)
            case _:
                assert_never(event)
        return [*dropped, *self._forget(now), *self._dial(now)]

    def next_due(self) -> float:
        """When the next Tick could matter; infinity if only another event can change something."""
        if self._free_dials() <= 0:
            return float("inf")
        return min((one.due for one in self._places() if one.dialing is None), default=float("inf"))

    def agents(self, now: float) -> tuple[KnownAgent, ...]:
        """Agents that answered once or are remembered by name, in the order of their names."""
        known = [
            KnownAgent(
                place.card,
                tuple(place.addresses),
                place.found_by,
                place.standing(self._policy, now),
                place.answer,
            )
            for place in self._agents.values()
            if place.card is not None
        ]
        return tuple(sorted(known, key=lambda agent: (agent.card.name, agent.card.peer_id)))

    def _places(self) -> Iterator[Place]:
        return chain(self._agents.values(), self._strangers.values())

    def _free_dials(self) -> int:
        return self._policy.most_dials - sum(one.dialing is not None for one in self._places())

    def _heard(self, event: Heard, now: float) -> None:
        address, peer_id, found_by = event.target.address, event.target.peer_id, event.found_by
        if peer_id == self._own or not (found_by in ("seed", "saved") or may_dial(address)):
            return
        place = self._strangers.get(address) if peer_id is None else self._agents.get(peer_id)
        if place is None:
            self._take_up(event, now)
            return
        place.add(address, self._policy, now)
        place.credit(found_by)
        if event.fresh and place.failures:
            place.heard_at, place.due = now, min(place.due, now)

    def _take_up(self, event: Heard, now: float) -> None:
        place = Place(event.found_by, [event.target.address], now, now, card=event.card)
        if event.target.peer_id is None:
            if _has_room(self._strangers, self._policy):
                self._strangers[event.target.address] = place
        elif _has_room(self._agents, self._policy):
            self._agents[event.target.peer_id] = place

    def _answered(self, target: Target, answer: HelloAnswer, now: float) -> None:
        place = self._dialed(target)
        if place is None:
            return
        if not answer.card.agent or target.peer_id not in (None, answer.card.peer_id):
            place.leave_alone(self._policy, now)
        elif target.peer_id is None:
            self._introduced(place, target.address, answer, now)
        else:
            place.succeed(answer, target.address, self._policy)
            place.answered_at = now
            place.due = now + self._policy.interval * (0.8 + 0.4 * self._random.random())
            self._heard_of_others(answer, now)

    def _introduced(self, place: Place, address: Address, answer: HelloAnswer, now: float) -> None:
        # Any member could have answered and said anything, so it is dialled again by its id.
        place.dialing, place.failures = None, 0
        place.due = now + self._policy.foreign_retry
        self._heard(Heard(Target(address, answer.card.peer_id), place.found_by), now)
        if place.found_by != "seed" and answer.card.peer_id != self._own:
            del self._strangers[address]

    def _heard_of_others(self, answer: HelloAnswer, now: float) -> None:
        for hint in answer.known[: self._policy.most_agents]:
            for address in hint.addresses[: self._policy.most_addresses]:
                self._heard(Heard(Target(address, hint.peer_id), "peer"), now)

    def _failed(self, target: Target, foreign: bool, now: float) -> None:
        place = self._dialed(target)
        if place is not None and foreign and target.peer_id is None:
            place.leave_alone(self._policy, now)
        elif place is not None:
            place.fail(self._policy, now, self._random.random())

    def _drop(self, peer_id: PeerId) -> list[Forget]:
        place = self._agents.pop(peer_id, None)
        if place is None:
            return []
        targets = tuple(Target(one, peer_id) for one in place.addresses)
        return [Forget(targets, "membership forgot it")]

    def _doubt(self, peer_id: PeerId, now: float) -> None:
        place = self._agents.get(peer_id)
        if place is None:
            return
        place.failures = max(place.failures, 1)
        for address in place.addresses:
            seed = self._strangers.get(address)
            if seed is not None:
                seed.due = min(seed.due, now + self._policy.first_retry)

    def _dialed(self, target: Target) -> Place | None:
        if target.peer_id is None:
            place = self._strangers.get(target.address)
        else:
            place = self._agents.get(target.peer_id)
        return place if place is not None and place.dialing == target else None

    def _forget(self, now: float) -> Iterator[Forget]:
        policy = self._policy
        for peer_id, place in list(self._agents.items()):
            gone = place.dialing is None and place.standing(policy, now) == "gone"
            if gone and now - place.quiet_since() >= policy.forget_seconds:
                del self._agents[peer_id]
                yield Forget(
                    tuple(Target(one, peer_id) for one in place.addresses), "gone for long"
                )
        for address, place in list(self._strangers.items()):
            if place.dialing is not None:
                continue
            holder = self._holder(address)
            if holder is not None:
                holder.credit(place.found_by)
            if place.found_by == "seed":
                place.due = max(place.due, now + policy.interval) if holder else place.due
            elif holder is not None or place.failures >= policy.give_up_after:
                del self._strangers[address]
                yield Forget((Target(address),), "known by its id" if holder else "never answered")

    def _holder(self, address: Address) -> Place | None:
        # The agent that answers there: nobody needs to be asked who it is.
        answering = (
            place
            for place in self._agents.values()
            if place.answer is not None and not place.failures and address in place.addresses
        )
        return next(answering, None)

    def _dial(self, now: float) -> Iterator[Dial]:
        free = self._free_dials()
        for peer_id, place in (
            *self._agents.items(),
            *((None, one) for one in self._strangers.values()),
        ):
            if free <= 0:
                return
            if place.dialing is not None or place.due > now:
                continue
            if place.answer is None and not self._may_dial_stranger(now):
                place.due = self._second_began + 1.0
                continue
            free -= 1
            place.dialing = Target(place.address, peer_id)
            yield Dial(place.dialing, f"found by {place.found_by}")

    def _may_dial_stranger(self, now: float) -> bool:
        if now - self._second_began >= 1.0:
            self._second_began, self._stranger_dials = now, 0
        self._stranger_dials += 1
        return self._stranger_dials <= self._policy.stranger_dials


def _has_room(places: dict[_Key, Place], policy: Policy) -> bool:
    """Whether one more fits; a place that never answered and failed most makes room."""
    if len(places) < policy.most_agents:
        return True
    idle = ((key, one) for key, one in places.items() if one.failures and one.dialing is None)
    worst = max(idle, key=lambda item: (item[1].answer is None, item[1].failures), default=None)
    if worst is None or worst[1].found_by == "seed":
        return False
    del places[worst[0]]
    return True
