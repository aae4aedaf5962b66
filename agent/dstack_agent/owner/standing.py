"""Whether the machine is lent at all: open, paused, or running empty. Pure."""

from datetime import datetime
from typing import assert_never

from dstack_mesh.frozen import frozen
from dstack_mesh.machine import AgentState


@frozen
class Open:
    """Jobs are taken, within the policy."""


@frozen
class Paused:
    """The owner has the machine for herself, until a moment or until she says otherwise."""

    until: datetime | None = None


@frozen
class Draining:
    """What runs is finished, nothing new is taken."""


Standing = Open | Paused | Draining


def standing_at(standing: Standing, now: datetime) -> Standing:
    """How it stands at a moment: a pause with an end ends by itself."""
    match standing:
        case Paused(until) if until is not None and until <= now:
            return Open()
        case _:
            return standing


def state_of(standing: Standing) -> AgentState:
    """The same as all peers are told."""
    match standing:
        case Open():
            return AgentState.ALIVE
        case Paused():
            return AgentState.PAUSED
        case Draining():
            return AgentState.DRAINING
    assert_never(standing)
