"""Forgets runs that ended long ago and left nothing but their story: the database is bounded.

What is kept of a run keeps the run: one with an artifact stays until somebody removes it, one that
a tag names for as long as it does, one that goes on anywhere in this agent until it ended. Nothing
is forgotten that `dstack ps` shows, however far a clock jumps.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from dstack_agent.driven import DrivenRuns
from dstack_agent.executor.foreign import remove_tree
from dstack_agent.jobs.places import folder_of
from dstack_agent.records import Records
from dstack_mesh.clock import Clock
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0


@frozen
class Remembering:
    """How much is remembered of runs that kept nothing.

    Attributes:
        days: Runs that ended longer ago are forgotten.
        most: Attempts beyond so many, the oldest first: some 200 MB.
        least: Attempts that stay whatever their age.
    """

    days: float = 365.0
    most: int = 20_000
    least: int = 1_000


@frozen
class Forgetting:
    """Forgets what an agent wrote down of runs.

    Attributes:
        tagged: The runs that a tag names, here or elsewhere.
        jobs: Where the folders of jobs are.
    """

    records: Records
    driven: DrivenRuns
    tagged: Callable[[], frozenset[RunId]]
    jobs: Path
    clock: Clock
    rules: Remembering = Remembering()

    async def look(self) -> int:
        """Forgets what is due; how many runs. Durable on return."""
        rules = self.rules
        long_ago = self.clock.now().timestamp() - rules.days * DAY_SECONDS
        attempts, due = 0, list[RunId]()
        for run_id, ended_at, count in self.records.bare():
            attempts += count
            if attempts > rules.most or (attempts > rules.least and ended_at < long_ago):
                due.append(run_id)
        spared = self._spared() if due else frozenset[RunId]()
        forgotten = [run_id for run_id in due if run_id not in spared]
        for run_id in forgotten:
            await self._forget(run_id)
        if forgotten:
            log.info("%d runs that ended long ago and kept nothing are forgotten", len(forgotten))
        return len(forgotten)

    def _spared(self) -> frozenset[RunId]:
        return self.tagged() | {run.record.run_id for run in self.driven.unfinished()}

    async def _forget(self, run_id: RunId) -> None:
        keys = [job.key for job in self.records.of_run(run_id)]
        for folder in (folder_of(self.jobs, key) for key in keys):
            await asyncio.to_thread(remove_tree, folder)
        await self.records.forget(run_id)
