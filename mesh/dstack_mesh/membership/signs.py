"""What membership hears, and what it wants done: the events and effects of `membership.swim`."""

from dataclasses import dataclass
from enum import Enum

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.known import Change
from dstack_mesh.membership.rumour import Message, Rumour


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class Told:
    """A peer probed us or compared its view with ours. `message.word` is the peer's own, by TLS."""

    message: Message


@dataclass(frozen=True, slots=True)
class Answered:
    """A call of ours was answered by the peer that was called."""

    number: int
    message: Message


@dataclass(frozen=True, slots=True)
class Silent:
    """A call of ours was not answered, neither by a peer nor by a helper."""

    number: int


@dataclass(frozen=True, slots=True)
class Helped:
    """A helper says whether the peer answered there."""

    number: int
    reached: bool


@dataclass(frozen=True, slots=True)
class Met:
    """An agent answered to Hello there, proved by TLS; its incarnation is not known, so it is 0."""

    word: Rumour
    found_at: Address | None = None


@dataclass(frozen=True, slots=True)
class Sighted:
    """A peer may also be at this address."""

    peer_id: PeerId
    address: Address


@dataclass(frozen=True, slots=True)
class Portrayed:
    """What we say of ourselves now."""

    name: str
    addresses: tuple[Address, ...]
    state: AgentState
    roster: str = ""


@dataclass(frozen=True, slots=True)
class Leave:
    """We stop in a moment."""


Event = Tick | Told | Answered | Silent | Helped | Met | Sighted | Portrayed | Leave


class Purpose(Enum):
    """Why a peer is called."""

    PROBE = "is it there"
    AGAIN = "it did not answer at once"
    LAST = "it is about to be gone"
    NEWS = "it should know this now"
    RETRY = "it was gone and may be back"


@dataclass(frozen=True, slots=True)
class Call:
    """Probe this peer; report Answered or Silent under the number."""

    number: int
    peer_id: PeerId
    addresses: tuple[Address, ...]
    message: Message
    within: float
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class CallFor:
    """Ask a helper to probe a peer; report Helped or Silent under the number."""

    number: int
    helper: PeerId
    helper_addresses: tuple[Address, ...]
    peer_id: PeerId
    addresses: tuple[Address, ...]
    within: float


@dataclass(frozen=True, slots=True)
class Compare:
    """Compare whole views with this peer."""

    peer_id: PeerId
    addresses: tuple[Address, ...]
    cause: str


Effect = Call | CallFor | Compare | Change
