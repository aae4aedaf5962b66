"""Which jobs of a run that ended run again, and with what in their places."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_cli.again import Anew, Choice, again
from dstack_cli.orders import Ordered, keep_order, ordered
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import (
    ArtifactSaved,
    Input,
    JobKey,
    JobRecord,
    JobSpec,
    JobState,
    Node,
    RunRecord,
    StateChange,
)
from dstack_scheduler.needs import Needs

OLD, NEW = RunId("0" * 26), RunId("1" * 26)
AT = datetime(2026, 11, 20, tzinfo=UTC)
ANEW = Anew(NEW, RunName("shy-owl-1"), "ana@laptop", AT)
GIVEN = Input(Digest(b"g" * 32), "given")
AGENT = PeerId("a" * 32)


def job(index: int, *after: int) -> DrivenJob:
    spec = JobSpec(
        JobKey(OLD, index, 3),
        *(RunName("calm-ibex-1"), f"wf-{index}", "bash", ("true",), Needs(), Digest(b"c" * 32), AT),
        inputs=(GIVEN,) if index == 0 else (),
    )
    return DrivenJob(spec, after)


def told(*states: JobState) -> RunRecord:
    jobs: list[JobRecord] = []
    for index, state in enumerate(states):
        key = JobKey(OLD, index, 2)
        whole = state in (JobState.DONE, JobState.STOPPED)
        kept = ArtifactSaved(key, f"out-{index}", Digest(bytes([index]) * 32), 1, 5, whole)
        change = StateChange(key, state, AT)
        jobs.append(JobRecord(key, f"wf-{index}", "bash", change, AGENT, "ws-1", (), (kept,)))
    return RunRecord(OLD, RunName("calm-ibex-1"), "wf-2", "bob@ws-1", AT, 3, jobs=tuple(jobs))


CHAIN = Ordered(told(), (job(0), job(1, 0), job(2, 1)))
DONE, FAILED, STOPPED = JobState.DONE, JobState.FAILED, JobState.STOPPED


def made(record: RunRecord, choice: Choice) -> list[tuple[str, tuple[int, ...], list[str]]]:
    new, jobs = again(CHAIN, record, choice, ANEW)
    assert (new.run_id, new.run_name, new.owner, new.job_count) == (
        *(NEW, "shy-owl-1", "ana@laptop"),
        len(jobs),
    )
    assert [one.spec.key for one in jobs] == [JobKey(NEW, n, 1) for n in range(len(jobs))]
    assert all(one.awarded is None and one.signed is None for one in jobs)
    return [(one.spec.workflow, one.after, [i.path for i in one.spec.inputs]) for one in jobs]


def test_what_was_done_stays_done_and_what_it_kept_is_laid_in() -> None:
    assert made(told(DONE, FAILED), Choice()) == [
        ("wf-1", (), ["out-0", "out-1"]),
        ("wf-2", (0,), []),
    ]


def test_a_stopped_job_finds_what_it_had_kept_last_of_all() -> None:
    record = told(STOPPED)
    assert made(record, Choice())[0] == ("wf-0", (), ["given", "out-0"])


def test_of_a_run_that_was_done_the_last_job_runs_again() -> None:
    assert made(told(DONE, DONE, DONE), Choice()) == [("wf-2", (), ["out-1", "out-2"])]


def test_one_job_is_made_alone_from_what_came_before_it() -> None:
    assert made(told(DONE, DONE, DONE), Choice(only=1)) == [("wf-1", (), ["out-0", "out-1"])]


GANG = tuple(
    replace(job(rank), spec=replace(job(rank).spec, node=Node(rank, 2))) for rank in range(2)
)
MAKING = (replace(job(0), spec=replace(job(0).spec, workflow="", makes="grid")), job(1, 0))


@pytest.mark.parametrize(
    ("states", "choice"),
    [((FAILED, DONE), Choice()), ((DONE, DONE), Choice()), ((DONE, DONE), Choice(only=1))],
)
def test_the_nodes_of_a_gang_start_together(states: tuple[JobState, ...], choice: Choice) -> None:
    record, jobs = again(Ordered(told(), GANG), told(*states), choice, ANEW)
    assert [one.spec.key.job for one in jobs] == [0, 1]
    assert record.job_count == 2


@pytest.mark.parametrize("choice", [Choice(), Choice(only=1), Choice(clear=True)])
def test_who_waits_for_made_jobs_waits_for_their_maker(choice: Choice) -> None:
    record, jobs = again(Ordered(told(), MAKING), told(DONE, STOPPED, DONE, FAILED), choice, ANEW)
    assert [(one.spec.makes, one.after) for one in jobs] == [("grid", ()), ("", (0,))]
    assert record.job_count == 3


def test_a_job_that_was_made_is_made_again_by_its_maker() -> None:
    states = (DONE, STOPPED, DONE, FAILED)
    _, jobs = again(Ordered(told(), MAKING), told(*states), Choice(only=3), ANEW)
    assert [one.spec.makes for one in jobs] == ["grid"]


def test_cleared_everything_begins_from_nothing() -> None:
    assert made(told(DONE, DONE, FAILED), Choice(clear=True)) == [
        ("wf-0", (), ["given"]),
        ("wf-1", (0,), []),
        ("wf-2", (1,), []),
    ]


def test_what_a_run_was_made_of_is_kept_in_this_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert ordered(home, OLD) is None
    keep_order(home, CHAIN.record, CHAIN.jobs)
    assert ordered(home, OLD) == CHAIN
    (home.state / "orders" / OLD).write_bytes(b"\xff\xff")
    assert ordered(home, OLD) is None
