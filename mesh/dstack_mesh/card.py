"""What a peer says of itself to members of its mesh, and what a peer answers to Hello."""

from datetime import datetime

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.machine import AgentState, Load, Machine, RunningJob

PROTOCOL = 1
"""Newest version of the protocol that this software speaks."""


@frozen
class PeerCard:
    """Who a peer is. A private agent has no `mesh_id`, a peer that only dials no `addresses`.

    `roster` is the digest of what it knows of the mesh's members.
    """

    peer_id: PeerId
    mesh_id: MeshId
    name: str
    addresses: tuple[Address, ...]
    version: str
    agent: bool
    protocol: int = PROTOCOL
    roster: str = ""


@frozen
class PeerHint:
    """Where an agent may be found. Never more than a hint: TLS proves who answers."""

    peer_id: PeerId
    addresses: tuple[Address, ...]


@frozen
class HelloAnswer:
    """What a peer answered to Hello.

    Attributes:
        now: None if it did not say its time.
        load: None if it did not say it, and in what it publishes.
    """

    card: PeerCard
    state: AgentState
    machine: Machine
    running: tuple[RunningJob, ...]
    known: tuple[PeerHint, ...]
    now: datetime | None
    load: Load | None = None
