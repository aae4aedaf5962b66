"""Who brings which tree from here at the moment, for those who do so at the same time."""

import time
from collections import OrderedDict
from collections.abc import Callable

from dstack_mesh.ids import Digest, PeerId

MOST_TREES = 256
"""Trees of which it is remembered; those that nobody asked for the longest are forgotten."""

MOST_TAKERS = 64
"""Of one tree."""

FRESH_SECONDS = 300.0
"""So long after it said so last, somebody is told of."""


class Takers:
    """Remembers for a few minutes. Bounded, whatever callers ask."""

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._trees: OrderedDict[Digest, OrderedDict[PeerId, float]] = OrderedDict()

    def join(self, digest: Digest, peer: PeerId | None) -> list[PeerId]:
        """Who else brings a tree, the last ones to say so first; None joins nobody."""
        now = self._elapsed()
        takers = self._trees.setdefault(digest, OrderedDict())
        self._trees.move_to_end(digest)
        if peer is not None:
            takers[peer] = now
            takers.move_to_end(peer)
        for each in list(takers)[:-MOST_TAKERS]:
            del takers[each]
        while len(self._trees) > MOST_TREES:
            self._trees.popitem(last=False)
        fresh = (one for one, at in takers.items() if one != peer and now - at < FRESH_SECONDS)
        return list(fresh)[::-1]
