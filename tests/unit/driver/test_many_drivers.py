"""Many real drivers at once on machines that answer badly: every job runs exactly once."""

import asyncio
import random
import time

import pytest

from dstack_mesh.clock import SystemClock
from dstack_scheduler.driver import Driver
from dstack_scheduler.job import JobState, StateChange
from support.fake_agent import FakeMachine
from support.fake_directory import FakeDirectory
from support.fake_job import FakeJob, play_nothing
from support.fake_store import FakeStore
from support.submissions import CODE, Remembering, planned, submission

DRIVERS = 24
SECONDS = 60


class Lab:
    """Machines with a few cards, and a world that ends jobs and loses answers."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.twice: list[str] = []
        self.machines = [
            FakeMachine(
                f"ws-{n}",
                cards=2,
                addresses=[f"10.0.0.{n}:7420"],
                play=self.play,
                # A hold whose answer was lost expires, twenty times as soon as in the world.
                clock=lambda: time.monotonic() * 20,
            )
            for n in range(3)
        ]

    def play(self, job: FakeJob) -> None:
        play_nothing(job)
        for machine in self.machines:
            cards = [uuid for each in machine.running for uuid in each.gpu_uuids]
            self.twice += [uuid for uuid in cards if cards.count(uuid) > 1]

    async def live(self) -> None:
        """Ends jobs and disturbs, until cancelled."""
        while True:
            await asyncio.sleep(0.005)
            machine = self.chance.choice(self.machines)
            # One answer in ten, however few are given: a driver that is alone goes on too.
            machine.lost_answers = int(self.chance.random() < 0.1)
            for job in machine.running:
                if self.chance.random() < 0.3:
                    await job.end()

    async def drive(self, number: int) -> StateChange:
        store = FakeStore(CODE)
        agents = [machine.seen_by(store) for machine in self.machines]
        self.chance.shuffle(agents)
        jobs = (planned(0, "sleep", gpus=1), planned(1, "sleep", after=[0], gpus=1))
        return await Driver(
            submission(*jobs, number=number),
            FakeDirectory(*agents),
            store,
            Remembering(),
            SystemClock(),
            random.Random(number).random,
        ).run()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_no_card_has_two_jobs_and_every_job_runs_once(seed: int) -> None:
    lab = Lab(seed)
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        world = tasks.create_task(lab.live())
        drives = [tasks.create_task(lab.drive(number)) for number in range(1, DRIVERS + 1)]
        await asyncio.wait(drives)
        world.cancel()

    ran = [(key.run_id, key.job) for machine in lab.machines for key in machine.jobs]
    assert {drive.result().state for drive in drives} == {JobState.DONE}
    assert sorted(ran) == sorted(set(ran))
    assert len(ran) == 2 * DRIVERS
    assert not lab.twice
