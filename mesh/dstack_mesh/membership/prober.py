"""The border between keeping the membership and the network."""

from collections.abc import Sequence
from typing import Protocol

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.comparing import Question, Reply
from dstack_mesh.membership.rumour import Message


class Prober(Protocol):
    """Calls agents by identity; `dstack_mesh.wire.prober.GrpcProber` does it over gRPC.

    Addresses are hints: whoever answers is the named peer, or the call fails with a MeshError.
    """

    async def probe(
        self, peer_id: PeerId, addresses: Sequence[Address], message: Message, within: float
    ) -> Message:
        """What the peer answers, its own word first."""
        ...

    async def probe_for(
        self,
        helper: PeerId,
        helper_addresses: Sequence[Address],
        peer_id: PeerId,
        addresses: Sequence[Address],
        within: float,
    ) -> bool:
        """Whether a helper reaches the peer."""
        ...

    async def compare(
        self, peer_id: PeerId, addresses: Sequence[Address], question: Question, within: float
    ) -> Reply:
        """One step of a comparison of views."""
        ...

    def reached_at(self, peer_id: PeerId) -> Address | None:
        """Where a peer answered last."""
        ...

    async def close(self) -> None:
        """Closes all connections."""
        ...
