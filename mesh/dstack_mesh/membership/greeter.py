"""The border between calling the roll and the network."""

from typing import Protocol

from dstack_mesh.card import HelloAnswer
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address
from dstack_mesh.membership.known import Target


class Greeter(Protocol):
    """Says Hello; `dstack_mesh.wire.greeter.GrpcGreeter` does it over gRPC."""

    async def hello(self, target: Target, within: float) -> HelloAnswer:
        """Who answers.

        Raises:
            Refused: Somebody answers who is not of our mesh.
            MeshError: Nobody answers, or not that peer.
        """
        ...

    async def forget(self, target: Target) -> None:
        """Lets go of what is kept for a target."""
        ...


@frozen
class Sources:
    """Where to look for agents.

    Attributes:
        seeds: Addresses that a person gave.
        mdns: Whether multicast may be used.
        port: The port to announce; None for a peer that only dials.
    """

    seeds: tuple[Address, ...] = ()
    mdns: bool = True
    port: int | None = None
