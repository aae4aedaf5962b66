"""What peers tell each other about peers: one line about one of them, and which line counts.

A rumour is about one incarnation of a peer. Only the peer itself starts a new one, so whatever it
says with a higher number ends what was said about a lower one. The words a peer says about itself
come with its TLS identity; everything else is hearsay.
"""

from dataclasses import dataclass
from enum import IntEnum

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState

MOST_ACCUSERS = 4
"""Whoever suspected first and three that confirm it."""

MOST_ADDRESSES = 8

HIGHEST_INCARNATION = 2**62


class Condition(IntEnum):
    """What becomes of a peer; of two rumours about one incarnation the higher condition counts."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Rumour:
    """A line about a peer.

    Attributes:
        peer_id: About whom.
        incarnation: Of the peer; at its start milliseconds since 1970, then one more each time it
            has something new to say of itself or is suspected.
        condition: What is said.
        state: Whether it takes jobs.
        name: What people call it.
        addresses: Where it may be dialled.
        accusers: Who failed to reach it, at most four.
        roster: Digest of the sender's roster. Only in its own word: it is newer than any rumour.
    """

    peer_id: PeerId
    incarnation: int
    condition: Condition
    state: AgentState = AgentState.ALIVE
    name: str = ""
    addresses: tuple[Address, ...] = ()
    accusers: tuple[PeerId, ...] = ()
    roster: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """What a probe and its answer carry.

    Attributes:
        word: What the sender says of itself.
        rumours: What it heard of others, at most `Pace.most_rumours`.
    """

    word: Rumour
    rumours: tuple[Rumour, ...] = ()


def outweighs(new: Rumour, incarnation: int, condition: Condition) -> bool:
    """Whether a rumour says more than what is held.

    A higher incarnation always does; of the same one the worse condition.
    """
    if new.incarnation != incarnation:
        return new.incarnation > incarnation
    return new.condition > condition
