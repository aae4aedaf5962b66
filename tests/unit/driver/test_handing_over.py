"""Who leaves a run: what is left for another driver, and what that one makes of it."""

from dataclasses import replace

import pytest

from dstack_mesh.faults import Conflict, Refused
from dstack_scheduler.job import JobState
from dstack_scheduler.progress import Awarded, Waiting
from dstack_scheduler.wire import convert
from support.drivers import Person, job_of
from support.eventually import eventually_async
from support.fake_agent import FakeMachine
from support.fake_job import play_nothing
from support.submissions import planned, submission


async def test_detaching_from_an_awarded_job_leaves_nothing_to_drive() -> None:
    here = FakeMachine("here", play=play_nothing)
    person = Person(submission(planned(0, "sleep")), here, local=here)
    async with person.running() as running:
        await job_of(here)
        await eventually_async(lambda: _any(person.watcher.of(Awarded)), within=5)
        assert await person.driver.detach() is None
        await running
    assert not next(iter(here.jobs.values())).state.state.ended


async def test_another_driver_finishes_a_chain_that_was_handed_over() -> None:
    here = FakeMachine("here", play=play_nothing)
    jobs = (planned(0, "sleep"), planned(1, "sleep", after=[0]))
    person = Person(submission(*jobs), here, local=here)
    async with person.running():
        first = await job_of(here)
        await eventually_async(lambda: _any(person.watcher.of(Awarded)), within=5)
        handed = await person.driver.detach()
    assert handed is not None
    assert handed.epoch == 2
    successor = Person(handed.submission(), here, local=here)
    async with successor.running() as running:
        await first.end()
        second = await job_of(here, 1)
        await second.end()
        assert (await running).state is JobState.DONE
    assert sorted(key.job for key in here.jobs) == [0, 1]


async def test_a_waiting_run_is_handed_over_whole_and_holds_nothing() -> None:
    busy = FakeMachine("busy", jobs_at_once=0)
    person = Person(submission(planned(0, "echo a")), busy)
    async with person.running():
        await eventually_async(lambda: _waits(person), within=5)
        handed = await person.driver.detach()
    assert handed is not None
    assert handed.jobs[0].awarded is None
    assert not busy.holds


async def test_a_driver_that_was_replaced_stops_driving_and_no_job() -> None:
    here = FakeMachine("here")
    run = submission(planned(0, "echo a"))
    here.epochs[(run.record.run_id, 0)] = 5

    with pytest.raises(Conflict):
        await Person(run, here, local=here).run()

    assert not here.jobs
    assert "stop" not in here.calls


async def test_a_run_whose_inputs_are_looked_up_cannot_be_handed_over() -> None:
    with pytest.raises(Refused):
        await Person(submission(planned(0, "echo b"))).driver.detach()


async def test_a_job_that_makes_jobs_is_driven_on_though_an_agent_has_it() -> None:
    here = FakeMachine("here", play=play_nothing)
    run = submission(replace(planned(0, "sweep"), makes="grid"))
    person = Person(run, here, local=here)
    async with person.running():
        await job_of(here)
        await eventually_async(lambda: _any(person.watcher.of(Awarded)), within=5)
        handed = await person.driver.detach()

    assert handed is not None
    assert handed.jobs[0].spec.makes == "grid"


def test_a_run_that_grew_travels_whole() -> None:
    """What was made comes last, also where an earlier job waits for it."""
    maker, report, made = submission(
        planned(0, "sweep"), planned(1, "report"), planned(2, "a")
    ).jobs
    grown = (maker, replace(report, after=(2,)), made)

    assert tuple(convert.driven_from_wire(convert.driven_to_wire(job)) for job in grown) == grown


async def _any(events: list[Awarded]) -> bool:
    return bool(events)


async def _waits(person: Person) -> bool:
    return bool(person.watcher.of(Waiting))
