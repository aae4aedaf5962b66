"""An agent as somebody who looks for agents sees it."""

from typing import Literal

from dstack_mesh.card import HelloAnswer, PeerCard, PeerHint
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState

FoundBy = Literal["mdns", "seed", "peer", "saved", "local"]
"""How an agent was found: multicast, a person's list, another agent, our memory, our own socket."""

Standing = Literal["alive", "suspect", "gone", "left", "draining", "paused"]
"""Whether it answers, and if so whether it takes jobs; "left": it said that it goes."""


@frozen
class Target:
    """Whom to greet: an address, and who must answer there (None: any member, to ask who it is)."""

    address: Address
    peer_id: PeerId | None = None


@frozen
class KnownAgent:
    """An agent, where it is and what it last said.

    Attributes:
        card: What it said of itself; for one that never answered, what is remembered of it.
        addresses: Where it can be dialled, the one that works first.
        found_by: How.
        state: Whether it answers and takes jobs.
        answer: Its newest answer; None if it did not answer yet.
        local: It is the agent of this home, reached by its Unix socket.
    """

    card: PeerCard
    addresses: tuple[Address, ...]
    found_by: FoundBy
    state: Standing
    answer: HelloAnswer | None
    local: bool = False

    @property
    def hint(self) -> PeerHint:
        return PeerHint(self.card.peer_id, self.addresses)


def standing_of(state: AgentState) -> Standing:
    """The standing of an agent that answers."""
    match state:
        case AgentState.ALIVE:
            return "alive"
        case AgentState.DRAINING:
            return "draining"
        case AgentState.PAUSED:
            return "paused"


@frozen
class Change:
    """An agent stands otherwise than before.

    Attributes:
        before: None for a new one.
        now: None for one that was gone for so long that it is forgotten.
        cause: Why, in words.
    """

    peer_id: PeerId
    name: str
    before: Standing | None
    now: Standing | None
    cause: str
