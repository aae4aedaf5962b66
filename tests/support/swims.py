"""A membership core of tests: its peers, what they say, and time that passes."""

from collections.abc import Sequence
from random import Random

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.pace import Pace
from dstack_mesh.membership.rumour import Condition, Message, Rumour
from dstack_mesh.membership.signs import (
    Answered,
    Call,
    CallFor,
    Effect,
    Event,
    Helped,
    Purpose,
    Silent,
    Tick,
    Told,
)
from dstack_mesh.membership.swim import Swim

OWN, ANA, BOB, CAT, DAN = (PeerId(letter * 32) for letter in "oabcd")
PACE = Pace()
NOWHERE = Address("10.6.6.6:6")


def word(
    peer_id: PeerId,
    incarnation: int = 1,
    condition: Condition = Condition.ALIVE,
    state: AgentState = AgentState.ALIVE,
    accusers: tuple[PeerId, ...] = (),
) -> Rumour:
    address = Address(f"10.0.0.{ord(peer_id[0])}:7420")
    return Rumour(peer_id, incarnation, condition, state, peer_id[:1], (address,), accusers)


def said(peer_id: PeerId, *rumours: Rumour, incarnation: int = 1) -> Told:
    return Told(Message(word(peer_id, incarnation), rumours))


def swim_with(*peers: PeerId) -> Swim:
    """Somebody who knows these, and has nothing to tell."""
    swim = Swim(word(OWN), Random(1), 0.0)
    for peer_id in peers:
        swim.handle(said(peer_id), 0.0)
    while swim.message(PeerId("")).rumours:
        pass
    return swim


def standing(swim: Swim, peer_id: PeerId) -> str:
    member = swim.member(peer_id)
    return member.standing if member else "unknown"


def calls(effects: list[Effect], *purposes: Purpose) -> list[Call]:
    found = [one for one in effects if isinstance(one, Call)]
    return [one for one in found if not purposes or one.purpose in purposes]


def live(
    swim: Swim,
    until: float,
    silent: set[PeerId],
    now: float = 0.0,
    effects: Sequence[Effect] = (),
) -> list[Effect]:
    """Time passes; who is silent never answers, the others do, and helpers say what they found."""
    done: list[Effect] = []
    waiting: list[tuple[float, Event]] = []
    while True:
        done += effects
        for effect in effects:
            if isinstance(effect, Call) and effect.peer_id in silent:
                waiting.append((now + effect.within, Silent(effect.number)))
            elif isinstance(effect, Call):
                member = swim.member(effect.peer_id)
                assert member is not None
                told = Message(word(effect.peer_id, max(member.incarnation, 1)))
                waiting.append((now + 0.01, Answered(effect.number, told)))
            elif isinstance(effect, CallFor):
                reached = effect.peer_id not in silent
                waiting.append((now + 0.3, Helped(effect.number, reached)))
        waiting.sort(key=lambda one: one[0])
        due = swim.next_due()
        moment = min(due, waiting[0][0] if waiting else due)
        if moment > until:
            return done
        now = max(now, moment)
        event = waiting.pop(0)[1] if waiting and waiting[0][0] <= now else Tick()
        effects = swim.handle(event, now)
