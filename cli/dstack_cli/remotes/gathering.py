"""Brings what a run kept to where it is wanted, from whoever has it; logs become trees of files."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dstack_cli.kept import KeptArtifact
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Reach
from dstack_cli.remotes.logs import LogFiles, save_log
from dstack_cli.remotes.showing import Showing
from dstack_cli.shelves import ANOTHER_MAY, nobody_has
from dstack_mesh.faults import MeshError, Missing, Unreachable
from dstack_mesh.remotes.port import TreeSource
from dstack_scheduler.job import JobRecord
from dstack_scheduler.pushed import PushedLog

T = TypeVar("T")


class Gatherer:
    """Reads artifacts and logs for one command."""

    def __init__(self, reach: Reach, showing: Showing) -> None:
        self._reach = reach
        self._showing = showing

    async def bring(self, kept: KeptArtifact) -> None:
        """Has an artifact in our store. Raises MeshError if nobody gives it."""
        missing = self._reach.store.missing_manifest
        if await asyncio.to_thread(missing, kept.digest):
            await self.from_holder(kept, lambda trees: trees.fetch_tree(kept.digest))

    async def from_holder(
        self, kept: KeptArtifact, take: Callable[[TreeSource], Awaitable[T]]
    ) -> T:
        """What `take` gives of the first who has the artifact and answers.

        Raises:
            MeshError: Nobody does.
        """
        trouble: MeshError | None = None
        for holder in self._reach.nearest(kept.holders):
            away = self._reach.away(holder) is not None
            trees = None if away else await self._reach.transfer(holder)
            if trees is None:
                continue
            try:
                return await take(trees)
            except ANOTHER_MAY as error:
                trouble = error
        raise trouble or nobody_has(kept, self._reach)

    async def log(self, picture: RunPicture, job: JobRecord) -> PushedLog | None:
        """The log of a job as a tree in our store, whole or what is left; None if there is none."""
        if job.agent_id is None:
            return None
        elsewhere = self._reach.elsewhere
        for trees, pushed in await elsewhere.pushed(job.key.run_id):
            for log in pushed.logs:
                if log.key == job.key:
                    await trees.fetch_tree(log.digest)
                    return log
        return await self._from_agent(picture, job) or await self._tail(job)

    async def _from_agent(self, picture: RunPicture, job: JobRecord) -> PushedLog | None:
        from dstack_cli.following import read_now

        if picture.away_of(job.agent_id) is not None:
            return None

        async def read(files: LogFiles) -> None:
            await read_now(self._reach, job, files.saw)

        try:
            return await save_log(self._reach.store, job.key, self._reach.home.state, read)
        except (Missing, Unreachable):
            return None

    async def _tail(self, job: JobRecord) -> PushedLog | None:
        tail = (await self._reach.tails(job.key.run_id)).get(job.key)
        if tail is None:
            self._showing.say(f"  the log of job {job.key.job} is left out: nobody has it")
            return None
        self._showing.say(f"  of the log of job {job.key.job} only the end is left")
        store, parent = self._reach.store, self._reach.home.state
        return await save_log(store, job.key, parent, lambda files: files.saw_tail(tail))
