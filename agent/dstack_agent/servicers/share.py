"""What all Attach streams of one peer may take together: no peer takes the agent's memory."""

import asyncio

from dstack_mesh.faults import Busy

MOST_FOLLOWED = 512
"""Jobs that one peer follows at a time; each may hold the beginning of a line."""

MOST_WANTED = 262_144
"""Chunks that one peer may have asked for and not received: a list of 8 MiB."""

MOST_DELIVERIES = 4
"""Streams of one peer that chunks are sent on at a time, each some 4 MiB, however slowly it is
read. Others wait."""


class Share:
    """Counts what the streams of one peer take. Use from one event loop."""

    def __init__(self) -> None:
        self.deliveries = asyncio.Semaphore(MOST_DELIVERIES)
        self._followed = 0
        self._wanted = 0

    def follow(self, jobs: int) -> None:
        """So many more jobs are followed, or fewer. Raises Busy."""
        if self._followed + jobs > MOST_FOLLOWED:
            raise Busy(
                "This peer follows too many jobs.",
                f"At most {MOST_FOLLOWED} over all its streams.",
                "End some of the commands that follow runs: `dstack attach`, `dstack logs -f`.",
                code="follows-too-many",
            )
        self._followed += jobs

    def want(self, chunks: int) -> None:
        """So many more chunks are wanted, or fewer. Raises Busy."""
        if self._wanted + chunks > MOST_WANTED:
            raise Busy(
                "This peer wants too many chunks at once.",
                f"At most {MOST_WANTED:,} over all its streams.",
                "Ask for the rest once these arrived.",
                code="wants-too-many",
            )
        self._wanted += chunks
