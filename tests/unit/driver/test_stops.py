"""A stop at every moment of a run, and an agent that does not answer."""

import asyncio
from collections.abc import Mapping

from dstack_mesh.faults import Broken, Busy, MeshError, Unreachable
from dstack_mesh.ids import HoldId, RunId
from dstack_scheduler.agent_port import Hold, Question
from dstack_scheduler.job import JobKey, JobSpec, JobState, StateChange
from dstack_scheduler.progress import Awarded, Unheard, Waiting
from support.drivers import Person, job_of
from support.eventually import eventually_async
from support.fake_agent import FakeAgent, FakeMachine
from support.fake_job import FakeJob, play_commands, play_nothing
from support.fake_store import FakeStore
from support.submissions import CODE, planned, submission


async def test_a_lost_answer_to_the_award_starts_the_job_once() -> None:
    there = FakeMachine("there", addresses=["10.0.0.2:7420"])

    def play(job: FakeJob) -> None:
        there.lost_answers = 2
        play_commands(job)

    there.play = play
    person = Person(submission(planned(0, "echo once")), there)

    end = await person.run()

    assert end.state is JobState.DONE
    assert person.watcher.log == b"once\n"
    assert list(there.jobs) == [JobKey(end.key.run_id, 0, 1)]
    assert there.calls.count("commit") == 3


async def test_an_award_that_nobody_confirms_is_said_and_never_made_twice() -> None:
    there = FakeMachine("there", addresses=["10.0.0.2:7420"], play=play_nothing)
    other = FakeMachine("other", addresses=["10.0.0.3:7420"], jobs_at_once=0)

    def play(job: FakeJob) -> None:
        play_nothing(job)
        there.up = False
        there.lost_answers = 1

    there.play = play
    person = Person(submission(planned(0, "sleep")), there, other)
    async with person.running() as running:

        async def unconfirmed() -> bool:
            return any(s.reason == "unconfirmed" for s in person.watcher.of(StateChange))

        assert await eventually_async(unconfirmed, within=10)
        other.jobs_at_once = 100
        there.up, there.lost_answers = True, 0
        (job,) = there.jobs.values()
        await job.end()
        assert (await running).state is JobState.DONE
    assert not other.jobs
    assert len(person.watcher.of(Awarded)) == 1


async def test_an_award_that_never_arrived_is_made_again_as_another_attempt() -> None:
    there = FakeMachine("there", addresses=["10.0.0.2:7420"])
    person = Person(submission(planned(0, "echo a")), there)
    agent = CommitGetsLost(there, person.store, False)
    person.directory.known[0] = agent
    async with person.running() as running:

        async def unconfirmed() -> bool:
            return any(s.reason == "unconfirmed" for s in person.watcher.of(StateChange))

        assert await eventually_async(unconfirmed, within=10)
        agent.lossy = False
        end = await running
    assert end.state is JobState.DONE
    assert [key.attempt for key in there.jobs] == [2]


class CommitGetsLost(FakeAgent):
    """An agent that no award reaches for a while."""

    lossy = True

    async def commit(
        self, hold_id: HoldId, epoch: int, spec: JobSpec, secrets: Mapping[str, str]
    ) -> None:
        if self.lossy:
            raise Unreachable("there cannot be reached.")
        await super().commit(hold_id, epoch, spec, secrets)


async def test_a_silent_agent_keeps_its_job() -> None:
    there = FakeMachine("there", addresses=["10.0.0.2:7420"], play=play_nothing)
    spare = FakeMachine("spare", addresses=["10.0.0.3:7420"])
    run = submission(planned(0, "sleep"), placement="there")
    person = Person(run, there, spare)
    async with person.running() as running:
        job = await job_of(there)
        there.up = False
        await job.poke()
        await job.write(b"while nobody listened\n")

        async def unheard() -> list[Unheard]:
            return person.watcher.of(Unheard)

        assert await eventually_async(unheard, within=10)
        await job.end()
        there.up = True
        assert (await running).state is JobState.DONE
    assert person.watcher.log == b"while nobody listened\n"
    assert not spare.jobs


async def test_stop_ends_a_running_job_and_the_run() -> None:
    here = FakeMachine("here", play=play_nothing)
    person = Person(submission(planned(0, "sleep")), here, local=here)
    async with person.running() as running:
        await job_of(here)
        person.driver.stop(abort=False, cause="stopped by ana")
        end = await running
    assert (end.state, end.cause) == (JobState.STOPPED, "stopped by ana")


async def test_a_stop_is_heard_by_an_agent_that_was_busy_or_broken() -> None:
    here = FakeMachine("here", play=play_nothing)
    errors: list[MeshError] = [Busy("It is called too often.", retry_seconds=0.1), Broken("A bug.")]

    class Troubled(FakeAgent):
        async def stop(self, run_id: RunId, job: int | None, abort: bool, cause: str) -> int:
            if errors:
                raise errors.pop(0)
            return await super().stop(run_id, job, abort, cause)

    person = Person(submission(planned(0, "sleep")))
    person.directory.known.append(Troubled(here, person.store, True))
    async with person.running() as running:
        await job_of(here)
        person.driver.stop(abort=False, cause="stopped by ana")
        end = await running
    assert (end.state, errors) == (JobState.STOPPED, [])


async def test_stop_while_waiting_never_starts_the_job() -> None:
    busy = FakeMachine("busy", jobs_at_once=0)
    person = Person(submission(planned(0, "echo a")), busy)
    async with person.running() as running:

        async def waits() -> list[Waiting]:
            return person.watcher.of(Waiting)

        assert await eventually_async(waits, within=5)
        person.driver.stop(abort=True, cause="enough")
        end = await running
    assert end.state is JobState.ABORTED
    assert not busy.jobs
    assert not busy.holds


async def test_stop_before_anything_began_starts_nothing() -> None:
    here = FakeMachine("here")
    person = Person(submission(planned(0, "echo a")), here, local=here)
    person.driver.stop(abort=False, cause="stopped by ana")

    assert (await person.run()).state is JobState.STOPPED
    assert not here.jobs


async def test_stop_after_the_end_changes_nothing() -> None:
    here = FakeMachine("here")
    person = Person(submission(planned(0, "echo a")), here, local=here)
    await person.run()

    person.driver.stop(abort=True, cause="too late")

    assert "stop" not in here.calls


async def test_a_search_that_is_cancelled_gives_back_what_it_reserves() -> None:
    there = FakeMachine("there")
    slow = SlowToHold(there, FakeStore(CODE), False)
    person = Person(submission(planned(0, "echo a")))
    person.directory.known.append(slow)
    async with person.running():
        await asyncio.wait_for(slow.reserving.wait(), 5)
    assert not there.holds
    assert "release" in there.calls


class SlowToHold(FakeAgent):
    """An agent that takes its time to say that it holds."""

    def __init__(self, machine: FakeMachine, store: FakeStore, local: bool) -> None:
        super().__init__(machine, store, local)
        self.reserving = asyncio.Event()

    async def reserve(self, question: Question, epoch: int) -> Hold:
        hold = await super().reserve(question, epoch)
        self.reserving.set()
        await asyncio.sleep(0.05)
        return hold
