"""Somebody who drives a run at agents in memory."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from dstack_mesh.clock import SystemClock
from dstack_scheduler.driver import Driver
from dstack_scheduler.job import StateChange
from dstack_scheduler.submission import Submission
from support.eventually import eventually_async
from support.fake_agent import FakeMachine
from support.fake_directory import FakeDirectory
from support.fake_job import FakeJob
from support.fake_store import FakeStore
from support.submissions import CODE, Remembering


class Person:
    """Somebody with a store and a view of some machines, who drives one run."""

    def __init__(
        self, run: Submission, *machines: FakeMachine, local: FakeMachine | None = None
    ) -> None:
        self.store = FakeStore(CODE)
        self.watcher = Remembering()
        agents = [machine.seen_by(self.store, machine is local) for machine in machines]
        self.directory = FakeDirectory(*agents)
        self.driver = Driver(
            run, self.directory, self.store, self.watcher, SystemClock(), random.Random(7).random
        )

    async def run(self) -> StateChange:
        async with asyncio.timeout(20):
            return await self.driver.run()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.Task[StateChange]]:
        task = asyncio.create_task(self.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})


async def job_of(machine: FakeMachine, index: int = 0) -> FakeJob:
    """The job once the machine has it."""

    async def look() -> FakeJob | None:
        return next((job for job in machine.jobs.values() if job.key.job == index), None)

    found = await eventually_async(look, within=5)
    assert found is not None
    return found
