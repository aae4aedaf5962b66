"""Which runs changed in the agent's databases, for whoever tells other agents."""

import asyncio

from dstack_mesh.ids import RunId

MOST_TOUCHED = 10_000
"""Runs that are remembered while nobody asks; private agents tell nobody."""


class Touched:
    """Collects what changed. For one event loop."""

    def __init__(self) -> None:
        self._runs: set[RunId] = set()
        self._tags = False
        self._news = asyncio.Event()

    def run(self, run_id: RunId) -> None:
        """Something about a run, or what it kept, changed."""
        if len(self._runs) < MOST_TOUCHED:
            self._runs.add(run_id)
        self._news.set()

    def tags(self) -> None:
        """A statement about a tag or a removed run is new."""
        self._tags = True
        self._news.set()

    async def wait(self) -> None:
        """Returns when something has changed that was not taken."""
        await self._news.wait()

    def take(self) -> tuple[set[RunId], bool]:
        """The runs that changed since the last time, and whether tags did."""
        runs, tags = self._runs, self._tags
        self._runs, self._tags = set(), False
        self._news.clear()
        return runs, tags
