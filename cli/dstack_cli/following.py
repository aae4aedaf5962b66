"""Follows a run that somebody else drives: each job at the agent that has it, come what may.

A run's jobs appear one after the other, and an attempt may be lost and made again elsewhere. So two
things go on side by side: looking who has which job, and reading every attempt that was found.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from dstack_cli.picture import RunPicture
from dstack_mesh.faults import Missing, Unreachable
from dstack_scheduler.agent_port import Agent, Directory
from dstack_scheduler.follow import Follower, Start
from dstack_scheduler.job import EndOfLog, Fin, JobKey, JobRecord, JobState, StateChange
from dstack_scheduler.progress import Awarded, Progress, RunEnded, Unheard, Watcher

LOOK_EVERY_SECONDS = 0.3


class Runs(Directory, Protocol):
    """What must be known of the mesh to follow a run."""

    async def again(self, picture: RunPicture) -> RunPicture:
        """The run as it is now."""
        ...


class RunFollower:
    """Tells a watcher everything about a run until it ended.

    Args:
        only: Follow this job alone; None for all.
    """

    def __init__(
        self, runs: Runs, picture: RunPicture, watcher: Watcher, only: int | None = None
    ) -> None:
        self._runs = runs
        self._picture = picture
        self._watcher = watcher
        self._only = only
        self._followed: set[JobKey] = set()
        self._ends: dict[JobKey, StateChange] = {}

    async def run(self) -> StateChange:
        """Follows to the end; returns how the run, or the one job, ended."""
        async with asyncio.TaskGroup() as reading:
            while (end := self._end()) is None:
                for job in self._new():
                    self._followed.add(job.key)
                    reading.create_task(self._read(job))
                await asyncio.sleep(LOOK_EVERY_SECONDS if self._followed else 0.05)
                if self._end() is None:
                    self._picture = await self._runs.again(self._picture)
        await self._watcher.saw(RunEnded(self._picture.record.run_name, end))
        return end

    def _new(self) -> list[JobRecord]:
        return [
            job
            for job in self._picture.record.jobs
            if job.key not in self._followed
            and job.agent_id is not None
            and not self._is_told(job)
            and self._only in (None, job.key.job)
        ]

    def _end(self) -> StateChange | None:
        """How it ended, once everything that began was read to its end."""
        jobs = {job.key.job: self._end_of(job) for job in self._picture.record.jobs}
        if self._only is not None:
            return jobs.get(self._only)
        ends = [end for _, end in sorted(jobs.items()) if end is not None]
        if len(ends) < len(jobs):
            return None
        bad = [end for end in ends if end.state is not JobState.DONE]
        if bad:
            return bad[0]
        return ends[-1] if ends and len(ends) == self._picture.record.job_count else None

    def _end_of(self, job: JobRecord) -> StateChange | None:
        if job.again:
            return None
        if job.state.state.ended and (job.agent_id is None or self._is_told(job)):
            return job.state
        return self._ends.get(job.key)

    def _is_told(self, job: JobRecord) -> bool:
        """Whether how it ended is known from others, and its agent does not tell of it."""
        picture = self._picture
        is_away = job.state.state.ended and picture.away_of(job.agent_id) is not None
        return is_away or picture.is_kept(job)

    async def _read(self, job: JobRecord) -> None:
        agent = await self._agent_of(job)
        await self._watcher.saw(
            Awarded(job.key.job, job.key.attempt, agent.card, agent.local, job.gpu_uuids, "")
        )
        last = await _follower(job.key, agent, self._runs, self._watcher.saw).run()
        if isinstance(last, Fin):
            if last.state.state is not JobState.DONE:  # then it may be tried again
                self._picture = await self._runs.again(self._picture)
            self._ends[job.key] = last.state

    async def _agent_of(self, job: JobRecord) -> Agent:
        assert job.agent_id is not None
        while True:
            agent = await self._runs.find(job.agent_id)
            if agent is not None:
                return agent
            await asyncio.sleep(LOOK_EVERY_SECONDS)


async def read_now(
    directory: Directory, job: JobRecord, tell: Callable[[Progress], Awaitable[None]]
) -> Fin | EndOfLog:
    """Reads what exists of a job's log and no more.

    Raises:
        Missing: No agent has the job.
        Unreachable: The agent that has it does not answer.
    """
    if job.agent_id is None:
        raise Missing("There is no log yet.", "No agent has the job.", "dstack ps")
    agent = await directory.find(job.agent_id)
    if agent is None:
        raise _away(job)

    async def heard(event: Progress) -> None:
        if isinstance(event, Unheard):
            raise _away(job)
        await tell(event)

    return await _follower(job.key, agent, directory, heard, Start(until_now=True)).run()


def _follower(
    key: JobKey,
    agent: Agent,
    directory: Directory,
    tell: Callable[[Progress], Awaitable[None]],
    start: Start = Start(),  # noqa: B008 - frozen
) -> Follower:
    return Follower(key, agent, directory, tell, random.random, start)


def _away(job: JobRecord) -> Unreachable:
    return Unreachable(
        f"{job.agent_name or job.agent_id} does not answer.",
        "The log is on that machine.",
        "dstack agents",
        code="agent-away",
    )
