"""Brings trees that a job reads from the agents that have them."""

from collections.abc import Awaitable, Callable, Sequence

from dstack_mesh.faults import MeshError, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address, Digest, PeerId
from dstack_scheduler.job import Source

Fetch = Callable[[PeerId, Address, Digest], Awaitable[int]]
"""Fetches a tree from a peer at an address into the store of this home."""


@frozen
class Bringer:
    """Finds a tree: here, or at one of its sources, whichever answers first in order.

    Attributes:
        here: Whether all bytes of a tree are in the store; reads disk, is called in a thread.
        fetch: Fetches a tree.
        known: Where a peer was seen lately, for sources whose addresses are stale or missing.
        own_id: This peer, which is never dialled.
    """

    here: Callable[[Digest], Awaitable[bool]]
    fetch: Fetch
    known: Callable[[PeerId], Sequence[Address]]
    own_id: PeerId

    async def bring(self, digest: Digest, sources: Sequence[Source], what: str) -> int:
        """Returns once all bytes are in the store; how many came.

        Raises:
            Unreachable: Nobody who has it answers; the message says who was asked.
        """
        if await self.here(digest):
            return 0
        silent: list[str] = []
        for source in sources:
            for address in self._addresses(source):
                try:
                    return await self.fetch(source.peer_id, address, digest)
                except MeshError as error:
                    silent.append(f"{address}: {error}")
        raise Unreachable(
            f"The files of {what} cannot be fetched.",
            " ".join(silent) or "No agent that has them can be dialled.",
            "Start the agent that has them (`dstack agents`), or run the producer again.",
            "input-unreachable",
        )

    def _addresses(self, source: Source) -> list[Address]:
        if source.peer_id == self.own_id:
            return []
        return list(dict.fromkeys([*source.addresses, *self.known(source.peer_id)]))
