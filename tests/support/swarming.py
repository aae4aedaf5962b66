"""The peers of a simulated mesh, and those that went."""

from collections.abc import Callable
from dataclasses import dataclass, field

from dstack_mesh.ids import PeerId
from dstack_mesh.membership.signs import Event
from dstack_mesh.membership.swim import Swim


@dataclass(slots=True)
class Peer:
    """A simulated one."""

    peer_id: PeerId
    swim: Swim
    side: int = 0
    frozen: bool = False
    tick_at: float = float("inf")
    waiting: list[tuple[Event, Callable[[], None] | None]] = field(
        default_factory=list[tuple[Event, Callable[[], None] | None]]
    )


@dataclass(slots=True)
class Departure:
    """A crash or a leave, and who does not know of it yet."""

    peer_id: PeerId
    at: float
    left: bool
    unaware: set[PeerId]
    known_at: float | None = None
