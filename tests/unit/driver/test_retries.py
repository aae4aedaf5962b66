"""Jobs that are tried again: when, where, with what, and who hears that it was the last time."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from dstack_mesh.ids import Digest, RunId
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.job import RECLAIMED, JobState, StateChange
from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.progress import Awarded, TriedAgain
from dstack_scheduler.retry import Retry
from dstack_scheduler.submission import Submission
from support.drivers import Person, job_of
from support.eventually import eventually_async
from support.fake_agent import FakeAgent, FakeMachine
from support.fake_job import NOW, play_nothing
from support.submissions import planned, submission


def often(job: PlannedJob, retry: Retry) -> Submission:
    """A run of one job that may be tried again."""
    return submission(replace(job, retry=retry))


async def test_a_job_that_fails_is_tried_again_as_often_as_it_says() -> None:
    here = FakeMachine("here")
    run = often(planned(0, "exit 3"), Retry(1, ("error",)))
    person = Person(run, here, local=here)

    end = await person.run()

    assert (end.key.attempt, end.state, end.exit_code) == (2, JobState.FAILED, 3)
    (again,) = person.watcher.of(TriedAgain)
    assert (again.attempt, again.because.exit_code, again.resumes) == (2, 3, ())
    assert [job.spec.inputs for job in here.jobs.values()] == [(), ()]


async def test_a_job_whose_secrets_stayed_elsewhere_ends_as_its_attempt_did() -> None:
    here = FakeMachine("here", play=play_nothing)
    shaky = replace(planned(0, "exit 3"), secret_names=("TOKEN",))
    run = replace(often(shaky, Retry(1, ("error",))), secrets={"TOKEN": "v"})
    person = Person(run, here, local=here)
    async with person.running():
        job = await job_of(here)
        job.enter(JobState.RUNNING)
        await job.poke()
        await eventually_async(lambda: _awarded(person), within=5)
        handed = await person.driver.detach()
    await job.end(JobState.FAILED, 3)

    assert handed is not None
    alone = Person(handed.submission(), here, local=here)
    end = await alone.run()

    assert (end.key.attempt, end.state, end.exit_code) == (1, JobState.FAILED, 3)
    assert alone.watcher.of(TriedAgain) == []
    assert here.calls.count("stop") == 1  # so that its agent does not wait for another attempt


async def test_a_job_whose_secrets_are_here_is_tried_again_with_them() -> None:
    """The negative control of the test above."""
    here = FakeMachine("here")
    shaky = replace(planned(0, "exit 3"), secret_names=("TOKEN",))
    run = replace(often(shaky, Retry(1, ("error",))), secrets={"TOKEN": "v"})
    end = await Person(run, here, local=here).run()
    assert (end.key.attempt, end.exit_code) == (2, 3)


async def _awarded(person: Person) -> bool:
    return bool(person.watcher.of(Awarded))


async def test_what_an_interrupted_attempt_kept_is_put_back_at_the_next_agent() -> None:
    first, second = FakeMachine("first", jobs_at_once=1), FakeMachine("second")
    first.play = second.play = play_nothing
    run = submission(replace(planned(0, "sleep"), needs=Needs(interruptible=True)))
    person = Person(run, first, second, local=first)
    async with person.running() as running:
        job = await job_of(first)
        first.jobs_at_once = 0
        job.save("job-0-out", Digest(b"k" * 32))
        first.trees.add(Digest(b"k" * 32))
        job.states.append(StateChange(job.key, JobState.STOPPED, NOW, "ana is back", RECLAIMED))
        await job.poke()
        after = await job_of(second)
        await after.end()
        end = await running

    assert (end.state, end.key.attempt) == (JobState.DONE, 2)
    (put_back,) = after.spec.inputs
    assert (put_back.path, put_back.digest) == ("job-0-out", Digest(b"k" * 32))
    assert put_back.sources[0].peer_id == first.card.peer_id


@pytest.mark.parametrize(("retry", "remains"), [(Retry(1), True), (Retry(0), False)])
async def test_who_leaves_a_job_that_may_come_again_hands_it_over(
    retry: Retry, remains: bool
) -> None:
    here = FakeMachine("here", play=play_nothing)
    person = Person(often(planned(0, "sleep"), retry), here, local=here)
    async with person.running():
        job = await job_of(here)
        job.enter(JobState.RUNNING)
        await job.poke()

        async def confirmed() -> bool:
            return bool(person.watcher.of(Awarded))

        await eventually_async(confirmed, within=5)
        handed = await person.driver.detach()

    assert (handed is not None) is remains


async def test_a_stop_while_a_job_rests_is_told_to_the_agent_that_had_it() -> None:
    here = FakeMachine("here")
    person = Person(often(planned(0, "exit 1"), Retry(5)), here, local=here)
    async with person.running() as running:

        async def rests() -> bool:
            return bool(person.watcher.of(TriedAgain))

        await eventually_async(rests, within=5)
        person.driver.stop(False, "stopped by ana")
        end = await running

    assert end.state is JobState.STOPPED
    assert "stop" in here.calls


async def test_a_checkpoint_outlives_an_attempt_that_was_interrupted_before_it_began() -> None:
    names = ("first", "second", "third")
    machines = [FakeMachine(name, jobs_at_once=1, play=play_nothing) for name in names]
    kept = Digest(b"k" * 32)
    run = submission(replace(planned(0, "sleep"), needs=Needs(interruptible=True)))
    person = Person(run, *machines, local=machines[0])
    async with person.running() as running:
        for machine in machines[:2]:
            job = await job_of(machine)
            machine.jobs_at_once = 0
            machine.trees.add(kept)
            if machine is machines[0]:
                job.save("job-0-out", kept)
            job.states.append(StateChange(job.key, JobState.STOPPED, NOW, "back", RECLAIMED))
            await job.poke()
        last = await job_of(machines[2])
        await last.end()
        await running

    assert [each.digest for each in last.spec.inputs] == [kept]


async def test_a_run_that_found_an_agent_after_all_ends_like_its_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That nobody was there at first is no news any more."""
    monkeypatch.setattr("dstack_scheduler.run.LONGEST_REST_SECONDS", 0.05)
    here = FakeMachine("here")
    run = often(planned(0, "echo a"), Retry(5, ("no-capacity",)))
    person = Person(run)
    looks, look = 0, person.directory.agents

    def counted() -> AsyncGenerator[Agent, None]:
        nonlocal looks
        looks += 1
        return look()

    async def nobody_was_found() -> bool:
        return looks > 2

    monkeypatch.setattr(person.directory, "agents", counted)
    async with person.running() as running:
        await eventually_async(nobody_was_found, within=5)
        person.directory.known.append(here.seen_by(person.store))
        end = await running

    assert end.state is JobState.DONE


class Slow(FakeAgent):
    """An agent whose answer to a stop takes its time."""

    async def stop(self, run_id: RunId, job: int | None, abort: bool, cause: str) -> int:
        await asyncio.sleep(0.05)
        return await super().stop(run_id, job, abort, cause)


async def test_an_agent_hears_that_a_job_is_not_tried_again_before_the_run_is_over() -> None:
    here = FakeMachine("here")
    person = Person(often(planned(0, "exit 1"), Retry(5)))
    person.directory.known.append(Slow(here, person.store, True))
    async with person.running() as running:
        await eventually_async(lambda: _rests(person), within=5)
        person.driver.stop(False, "stopped by ana")
        await running

    assert here.calls.count("stop") == 1


async def _rests(person: Person) -> bool:
    return bool(person.watcher.of(TriedAgain))
