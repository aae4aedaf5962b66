"""Brings trees that a job reads from the agents that have them."""

from collections.abc import Awaitable, Callable, Sequence

from dstack_mesh.faults import Busy, MeshError, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.job import Source

Fetch = Callable[[Digest, Sequence[Source]], Awaitable[int]]
"""Fetches a tree from whoever of some sources gives it into the store of this home."""


@frozen
class Bringer:
    """Finds a tree: here, or at its sources.

    Attributes:
        here: Whether all bytes of a tree are in the store; reads disk, is called in a thread.
        fetch: Fetches a tree.
        own_id: This peer, which is never dialled.
    """

    here: Callable[[Digest], Awaitable[bool]]
    fetch: Fetch
    own_id: PeerId

    async def bring(self, digest: Digest, sources: Sequence[Source], what: str) -> int:
        """Returns once all bytes are in the store; how many came.

        Raises:
            Busy: The disk is full.
            Unreachable: Nobody who has it answers; the message says who was asked.
        """
        if await self.here(digest):
            return 0
        others = [source for source in sources if source.peer_id != self.own_id]
        why = "No agent that has them is known."
        if others:
            try:
                return await self.fetch(digest, others)
            except Busy:
                raise
            except MeshError as error:
                why = error.why or error.what
        raise Unreachable(
            f"The files of {what} cannot be fetched.",
            why,
            "Start the agent that has them (`dstack agents`), or run the producer again.",
            "input-unreachable",
        )
