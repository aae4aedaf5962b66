"""Which agents do not have what they are said to have: each is asked, and so is our own disk.

An agent tells of copies once and its job's record names it for ever; a disk that was replaced or
put back tells nobody. Whoever answers a wrong yes is not found out: that takes the bytes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from dstack_agent.redundancy import Kept
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Digest, PeerId

Lacking = Callable[[PeerId, Sequence[Digest]], Awaitable[frozenset[Digest]]]
"""Trees that a peer says it has not. Raises MeshError if it does not answer."""


class Doubts:
    """Who lacks what, as it was when each was asked last. For one event loop.

    Args:
        own: This agent, whose store is looked into.
    """

    def __init__(self, own: PeerId, store: ChunkStore, lacking: Lacking) -> None:
        self._own = own
        self._store = store
        self._lacking = lacking
        self._known: dict[PeerId, frozenset[Digest]] = {}

    async def ask(self, kept: Sequence[Kept], answering: Iterable[PeerId]) -> bool:
        """Asks everybody who answers for all that it is said to have; whether that was news."""
        before = {peer: lacking for peer, lacking in self._known.items() if lacking}
        for peer in {self._own, *answering}:
            held = (digest for one in kept if peer in one.holders for digest in one.digests)
            wanted = list(dict.fromkeys(held))
            if peer == self._own:
                self._known[peer] = await asyncio.to_thread(self._lacking_here, wanted)
            else:
                try:
                    self._known[peer] = await self._lacking(peer, wanted)
                except MeshError:  # who does not answer is silent by another rule
                    continue
        return {peer: lacking for peer, lacking in self._known.items() if lacking} != before

    def counted(self, kept: Sequence[Kept]) -> Sequence[Kept]:
        """The same, with the holders of whom nothing else is known."""
        if not any(self._known.values()):  # as in most meshes
            return kept
        return [
            replace(one, holders=frozenset(p for p in one.holders if self._has(p, one)))
            for one in kept
        ]

    def told(self, peer: PeerId, digests: Iterable[Digest]) -> None:
        """A peer has these by now."""
        self._known[peer] = self._known.get(peer, frozenset()).difference(digests)

    def _has(self, peer: PeerId, kept: Kept) -> bool:
        return self._known.get(peer, frozenset()).isdisjoint(kept.digests)

    def _lacking_here(self, digests: Sequence[Digest]) -> frozenset[Digest]:
        return frozenset(filter(self._store.missing_manifest, digests))
