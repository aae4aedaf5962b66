"""Drivers of gangs: every node is told where its master is, and all start or none."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Busy
from dstack_mesh.ids import HoldId
from dstack_scheduler.driver import Driver
from dstack_scheduler.job import JobSpec, JobState, Node, StateChange
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.progress import Waiting
from support.eventually import eventually_async
from support.fake_agent import FakeAgent, FakeMachine
from support.fake_directory import FakeDirectory
from support.fake_job import FakeJob, play_nothing
from support.fake_store import FakeStore
from support.rounds import rounds
from support.submissions import CODE, Remembering, planned, submission

SECONDS = 60


def nodes(count: int, *commands: str, gpus: int = 1) -> tuple[PlannedJob, ...]:
    job = planned(0, *commands, gpus=gpus, name="train")
    return tuple(replace(job, index=rank, node=Node(rank, count)) for rank in range(count))


def driver(
    machines: Sequence[FakeMachine], jobs: Sequence[PlannedJob], watcher: Remembering, number: int
) -> Driver:
    store = FakeStore(CODE)
    agents = [machine.seen_by(store) for machine in machines]
    random.Random(number).shuffle(agents)
    return Driver(
        submission(*jobs, number=number),
        FakeDirectory(*agents),
        store,
        watcher,
        SystemClock(),
        random.Random(number).random,
    )


def lab(count: int, cards: int = 1, name: str = "ws") -> list[FakeMachine]:
    return [
        FakeMachine(f"{name}-{n}", cards=cards, addresses=[f"10.0.0.{n}:7420"])
        for n in range(count)
    ]


async def test_the_nodes_start_on_different_agents_and_know_their_master() -> None:
    machines = lab(3)

    end = await driver(machines, nodes(2, "echo hello"), Remembering(), 1).run()

    jobs = [job for machine in machines for job in machine.jobs.values()]
    by_rank = {job.spec.node.rank: job for job in jobs if job.spec.node is not None}
    master = next(machine for machine in machines if by_rank[0].key in machine.jobs)
    assert end.state is JobState.DONE
    assert sorted(by_rank) == [0, 1]
    assert max(len(machine.jobs) for machine in machines) == 1
    assert {job.spec.node.master for job in jobs if job.spec.node is not None} == {
        f"{master.card.name}:29500"
    }


async def test_one_node_that_fails_ends_the_others_and_the_run() -> None:
    machines = lab(2)
    running = asyncio.create_task(driver(machines, nodes(2, "sleep"), Remembering(), 1).run())

    async def all_run() -> bool:
        return all(machine.running for machine in machines)

    await eventually_async(all_run, within=5.0)

    worker = next(job for machine in machines for job in machine.jobs.values() if job.key.job == 1)
    await worker.end(JobState.FAILED, 3)
    end = await running

    states = {job.key.job: job.state.state for machine in machines for job in machine.jobs.values()}
    assert (end.state, end.exit_code) == (JobState.FAILED, 3)
    assert states == {0: JobState.STOPPED, 1: JobState.FAILED}


async def test_a_node_that_an_agent_lost_ends_the_run_under_another_driver_too() -> None:
    machines, watcher = lab(2), Remembering()
    first = driver(machines, nodes(2, "sleep"), watcher, 1)
    running = asyncio.create_task(first.run())

    async def all_run() -> bool:
        return all(machine.running for machine in machines)

    await eventually_async(all_run, within=5.0)
    handed = first.hand_over()
    running.cancel()
    await asyncio.wait({running})
    worker = next(m for m in machines if any(key.job == 1 for key in m.jobs))
    worker.jobs.clear()

    store = FakeStore(CODE)
    directory = FakeDirectory(*(machine.seen_by(store) for machine in machines))
    run = handed.submission()
    second = Driver(run, directory, store, watcher, SystemClock(), random.Random(1).random)
    async with asyncio.timeout(10):
        end = await second.run()

    assert (end.state, end.key.job) == (JobState.LOST, 1)


class Refusing(FakeAgent):
    """An agent that refuses an award, and does something just before."""

    before: Callable[[], None]

    async def commit(
        self, hold_id: HoldId, epoch: int, spec: JobSpec, secrets: Mapping[str, str]
    ) -> None:
        self.before()
        raise Busy("It is taken.")


async def test_a_stop_while_the_master_is_refused_leaves_no_hold() -> None:
    machines, store = lab(2), FakeStore(CODE)
    agents = [Refusing(machine, store, False) for machine in machines]
    directory = FakeDirectory(*agents)
    run = submission(*nodes(2, "sleep"))
    one = Driver(run, directory, store, Remembering(), SystemClock(), random.Random(1).random)
    for agent in agents:
        agent.before = lambda: one.stop(False, "stopped by ana")

    async with asyncio.timeout(10):
        end = await one.run()

    assert end.state is JobState.STOPPED
    assert not any(machine.holds for machine in machines)


async def test_without_room_for_all_nobody_holds_and_a_stop_ends_the_wait() -> None:
    machines = lab(2)
    watcher = Remembering()
    waiting = driver(machines, nodes(3, "sleep"), watcher, 1)
    running = asyncio.create_task(waiting.run())

    async def waits() -> list[Waiting]:
        return watcher.of(Waiting)

    await eventually_async(waits, within=5.0)

    assert not any(machine.holds or machine.jobs for machine in machines)
    waiting.stop(abort=False, cause="stopped by ana")
    assert (await running).state is JobState.STOPPED


class Crowd:
    """Machines, and a world that ends jobs and loses answers."""

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
            for n in range(4)
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
            machine.lost_answers = int(self.chance.random() < 0.05)
            for job in machine.running:
                if self.chance.random() < 0.3:
                    await job.end()

    async def drive(self, number: int) -> StateChange:
        gang = nodes(self.chance.randint(1, 4), "sleep", gpus=self.chance.randint(1, 2))
        return await driver(self.machines, gang, Remembering(), number).run()


@pytest.mark.parametrize("seed", range(1, 1 + rounds(1)))
async def test_many_gangs_at_once_all_run_whole_and_once(seed: int) -> None:
    crowd = Crowd(seed)
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        world = tasks.create_task(crowd.live())
        drives = [tasks.create_task(crowd.drive(number)) for number in range(1, 17)]
        await asyncio.wait(drives)
        world.cancel()

    jobs = [job for machine in crowd.machines for job in machine.jobs.values()]
    ran = [(job.key.run_id, job.key.job) for job in jobs]
    assert {drive.result().state for drive in drives} == {JobState.DONE}
    assert len(ran) == len(set(ran))
    for run_id in {job.key.run_id for job in jobs}:
        whole = next(job.spec.node for job in jobs if job.key.run_id == run_id)
        assert whole is not None
        assert sum(job.key.run_id == run_id for job in jobs) == whole.count
    assert not crowd.twice
