"""What must be known of a driven run if its agent dies at any moment."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_agent.database import Database
from dstack_agent.driven import DrivenRun, DrivenRuns
from dstack_agent.driving import Driving, after
from dstack_mesh.card import PeerCard
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Broken, Busy, Conflict, Invalid, Missing
from dstack_mesh.ids import Address, Digest, MeshId, PeerId, RunId, RunName
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.driver import Driver
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    JobKey,
    JobSpec,
    JobState,
    RunRecord,
    Source,
    StateChange,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.progress import (
    Awarded,
    Awarding,
    Declined,
    Progress,
    RunEnded,
    Waiting,
    Watcher,
)
from dstack_scheduler.submission import Submission
from support.eventually import eventually_async
from support.fake_agent import FakeMachine
from support.fake_directory import FakeDirectory
from support.fake_job import play_nothing
from support.fake_store import FakeStore
from support.submissions import CODE, Remembering, planned, submission

RUN = RunId("0" * 26)
AT = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = Digest(b"d" * 32)
WS = PeerCard(PeerId("b" * 32), MeshId("m"), "ws-2", (Address("10.0.0.2:7420"),), "0", True)


def driven() -> DrivenRun:
    def job(index: int) -> DrivenJob:
        spec = JobSpec(
            key=JobKey(RUN, index),
            run_name=RunName("calm-ibex-1"),
            workflow=f"job-{index}",
            provider="bash",
            commands=(),
            needs=Needs(),
            code_digest=DIGEST,
            submitted_at=AT,
        )
        return DrivenJob(spec)

    record = RunRecord(RUN, RunName("calm-ibex-1"), "job-1", "ana@laptop", AT, 2)
    return DrivenRun(record, (job(0), job(1)), 1)


def test_an_awarded_job_is_found_again_and_its_next_attempt_is_another() -> None:
    run = after(driven(), Awarded(1, 2, WS, False, ("GPU-1",), "only free GPU"))
    assert run.jobs[1].awarded == Source(WS.peer_id, WS.addresses)
    assert run.jobs[1].spec.key.attempt == 3
    assert run.jobs[0] == driven().jobs[0]
    (told,) = run.record.jobs
    assert (told.agent_name, told.gpu_uuids) == ("ws-2", ("GPU-1",))


@pytest.mark.parametrize("attempt", [1, 2])
def test_those_who_list_runs_are_told_of_the_attempt_that_was_awarded(attempt: int) -> None:
    run = after(driven(), Awarding(1, attempt, WS))
    run = after(run, Awarded(1, attempt, WS, False, (), "only agent"))
    (told,) = run.record.jobs
    assert told.key == told.state.key == JobKey(RUN, 1, attempt)


def test_states_and_artifacts_are_kept_for_those_who_list_runs() -> None:
    run = after(driven(), Awarded(0, 1, WS, False, (), "only agent"))
    key = JobKey(RUN, 0, 1)
    done = StateChange(key, JobState.DONE, AT, exit_code=0)
    run = after(run, StateChange(key, JobState.RUNNING, AT))
    assert run.record.jobs[0].state.state is JobState.RUNNING
    artifact = ArtifactSaved(key, "data", DIGEST, 1, 1, complete=True)
    run = after(run, Fin(key, done, 0, DIGEST, 0, DIGEST, (artifact,)))
    assert run.record.jobs[0].state == done
    assert run.record.jobs[0].artifacts == (artifact,)
    assert run.record.jobs[0].agent_name == "ws-2"


def test_what_changes_nothing_is_not_written() -> None:
    run = driven()
    assert after(run, Waiting(1, ())) is run
    run = after(run, StateChange(JobKey(RUN, 1), JobState.DONE, AT))
    ended = StateChange(JobKey(RUN, 1), JobState.DONE, AT)
    assert after(run, RunEnded(RunName("calm-ibex-1"), ended)) is run


class Died(Exception):
    """The agent that drives dies."""


class Witness:
    """Writes down what a driving agent would, and dies at an event."""

    def __init__(self, run: DrivenRun, fatal: type[object]) -> None:
        self.run = run
        self._fatal = fatal

    async def saw(self, event: Progress) -> None:
        if isinstance(event, self._fatal):
            raise Died
        self.run = after(self.run, event)


def handed_over(placement: str = "") -> DrivenRun:
    made = submission(planned(0, "sleep"), placement=placement, epoch=2)
    return DrivenRun(made.record, made.jobs, made.epoch)


def driver(run: DrivenRun, watcher: Watcher, *machines: FakeMachine) -> Driver:
    store = FakeStore(CODE)
    made = Submission(run.record, run.jobs, epoch=run.epoch)
    agents = FakeDirectory(*(machine.seen_by(store) for machine in machines))
    return Driver(made, agents, store, watcher, SystemClock(), lambda: 0.5)


async def test_an_agent_that_dies_right_after_the_award_does_not_place_the_job_twice() -> None:
    first = FakeMachine("ws-1", jobs_at_once=1, play=play_nothing)
    other = FakeMachine("ws-2", jobs_at_once=1, play=play_nothing)
    witness = Witness(handed_over(), Awarded)
    with pytest.raises(ExceptionGroup):
        await driver(witness.run, witness, first).run()
    assert len(first.jobs) == 1

    seen = Remembering()
    task = asyncio.create_task(driver(witness.run, seen, other, first).run())

    async def followed() -> bool:
        return bool(seen.of(StateChange))

    await eventually_async(followed, 5)
    for job in first.jobs.values():
        await job.end()
    async with asyncio.timeout(5):
        assert (await task).state is JobState.DONE
    assert (len(first.jobs), len(other.jobs)) == (1, 0)


async def test_an_agent_that_dies_right_before_the_award_places_the_job_once() -> None:
    first = FakeMachine("ws-1", play=play_nothing)
    witness = Witness(handed_over(), Awarding)
    with pytest.raises(ExceptionGroup):
        await driver(witness.run, witness, first).run()
    assert first.jobs == {}
    assert witness.run.jobs[0].awarded is None


def test_a_job_that_is_being_awarded_is_asked_for_at_that_agent_until_it_declines() -> None:
    run = after(driven(), Awarding(1, 1, WS))
    assert run.jobs[1].awarded == Source(WS.peer_id, WS.addresses)
    assert run.jobs[1].spec.key.attempt == 2
    assert after(run, Declined(1, 1)) == driven()


class BreaksOnce:
    """Makes drivers of which the first one breaks."""

    def __init__(self, error: Exception) -> None:
        self.made: list[Submission] = []
        self._error = error

    def make(self, submission: Submission, watcher: Watcher) -> "BreaksOnce":
        self.made.append(submission)
        return self

    async def run(self) -> StateChange:
        if len(self.made) == 1:
            raise self._error
        return StateChange(JobKey(RUN, 1), JobState.DONE, AT)

    def stop(self, abort: bool, cause: str) -> None:
        raise AssertionError("nobody asked for it")


@pytest.mark.parametrize(
    ("error", "drivers"),
    [
        (OSError(28, "No space left on device"), 2),
        (Busy("An agent is called too often."), 2),
        (Broken("An agent has a bug."), 2),
        (Conflict("Another driver has taken the run over.", code="epoch"), 1),
        (Missing("An input does not exist."), 1),
    ],
)
async def test_a_run_whose_driving_broke_is_driven_on_unless_that_is_final(
    tmp_path: Path, error: Exception, drivers: int
) -> None:
    database = Database(tmp_path / "agent.db")
    breaking = BreaksOnce(error)
    driving = Driving(DrivenRuns(database), breaking.make, again_seconds=0.01)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(driving.run())
        await asyncio.sleep(0)
        run = driven()
        await driving.drive(run.record, run.jobs, 2)

        async def over() -> bool:
            found = driving.runs.find(RUN)
            return found is not None and found.over

        await eventually_async(over, 5)
        task.cancel()
    assert len(breaking.made) == drivers
    database.close()


class Endless:
    """A driver that has nothing to say."""

    async def run(self) -> StateChange:
        await asyncio.Event().wait()
        raise AssertionError("nobody ends it")

    def stop(self, abort: bool, cause: str) -> None:
        raise AssertionError("nobody asked for it")


async def test_one_peer_has_so_many_runs_driven_and_leaves_room_for_others(tmp_path: Path) -> None:
    database = Database(tmp_path / "agent.db")
    driving = Driving(DrivenRuns(database), lambda submission, watcher: Endless(), most_of_one=2)
    ana, ben = Asker(PeerId("a" * 32), "submitter"), Asker(PeerId("b" * 32), "submitter")

    async def drive(number: int, behalf: Asker, epoch: int = 1) -> None:
        run_id = RunId(f"{number:026d}")
        record = replace(driven().record, run_id=run_id)
        specs = [replace(one.spec, key=JobKey(run_id, one.spec.key.job)) for one in driven().jobs]
        await driving.drive(record, tuple(map(DrivenJob, specs)), epoch, behalf)

    task = asyncio.create_task(driving.run())
    await asyncio.sleep(0)
    await drive(1, ana)
    await drive(2, ana)
    with pytest.raises(Busy) as refused:
        await drive(3, ana)
    assert (refused.value.code, "dstack stop" in refused.value.hint) == ("drives-enough", True)
    await drive(2, ana, epoch=2)
    await drive(4, ben)
    for number in range(5, 9):
        await drive(number, OWNER)
    task.cancel()
    await asyncio.wait([task])
    database.close()


async def test_a_run_whose_jobs_do_not_fit_together_is_refused_and_not_written_down(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path / "agent.db")
    runs, run = DrivenRuns(database), driven()
    jobs = run.jobs
    wrong = ((), (replace(jobs[0], after=(0,)), *jobs[1:]), jobs[1:] or jobs * 2)
    for each in wrong:
        with pytest.raises(Invalid):
            await Driving(runs, _unasked).drive(run.record, each, 1)
    assert runs.unfinished() == []
    database.close()


async def test_a_run_that_cannot_be_driven_keeps_no_agent_from_starting(tmp_path: Path) -> None:
    database = Database(tmp_path / "agent.db")
    runs, run = DrivenRuns(database), driven()
    await runs.take(run.record, (), 1)  # as if an older agent had taken it
    running = asyncio.create_task(Driving(runs, _cannot).run())
    done, _ = await asyncio.wait([running], timeout=0.2)
    assert not done
    running.cancel()
    database.close()


async def test_a_run_that_cannot_be_read_hides_no_other_and_keeps_no_agent_from_starting(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path / "agent.db")
    runs, run = DrivenRuns(database), driven()
    other = RunId("1" * 26)
    specs = [replace(one.spec, key=JobKey(other, one.spec.key.job)) for one in run.jobs]
    await runs.take(replace(run.record, run_id=other), tuple(map(DrivenJob, specs)), 1)
    nowhere = replace(WS, addresses=(Address("x\n"),))
    await runs.take(run.record, run.jobs, 1)
    await runs.progress(after(run, Awarding(0, 1, nowhere)))

    assert [each.record.run_id for each in runs.unfinished()] == [other]
    assert [each for each in runs.run_ids() if runs.find(each)] == [other]
    assert runs.find(RUN) is None
    driving = Driving(runs, lambda submission, watcher: Endless())
    running = asyncio.create_task(driving.run())
    await asyncio.sleep(0)
    assert driving.giver(other) is not None
    running.cancel()
    await asyncio.wait([running])
    database.close()


def _unasked(submission: Submission, watcher: Watcher) -> Driver:
    raise AssertionError("nothing is driven")


def _cannot(submission: Submission, watcher: Watcher) -> Driver:
    raise ValueError("a run has at least one job")
