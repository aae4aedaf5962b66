"""Of a large run what changed is written down, and what is read is what was written."""

import random
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_agent.database import Database
from dstack_agent.driven import DrivenRun, DrivenRuns
from dstack_agent.driven_jobs import Jobs, changes
from dstack_agent.driving import after
from dstack_mesh.card import PeerCard
from dstack_mesh.ids import Address, Digest, MeshId, PeerId, RunId, RunName
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import JobKey, JobSpec, JobState, RunRecord, StateChange
from dstack_scheduler.needs import Needs
from dstack_scheduler.progress import Awarded, Awarding, Declined, Grown, Progress

RUN = RunId("0" * 26)
AT = datetime(2026, 1, 1, tzinfo=UTC)
WS = PeerCard(PeerId("b" * 32), MeshId("m"), "ws-2", (Address("10.0.0.2:7420"),), "0", True)


def job(index: int) -> DrivenJob:
    spec = JobSpec(
        key=JobKey(RUN, index),
        run_name=RunName("calm-ibex-1"),
        workflow=f"job-{index}",
        provider="bash",
        commands=(),
        needs=Needs(),
        code_digest=Digest(b"d" * 32),
        submitted_at=AT,
    )
    return DrivenJob(spec)


def run_of(count: int) -> DrivenRun:
    record = RunRecord(RUN, RunName("calm-ibex-1"), "job-1", "ana@laptop", AT, count)
    return DrivenRun(record, tuple(map(job, range(count))), 1)


@contextmanager
def driven_in(folder: Path) -> Generator[DrivenRuns]:
    with closing(Database(folder / "agent.db")) as database:
        yield DrivenRuns(database)


def in_order(run: DrivenRun) -> DrivenRun:
    told = tuple(sorted(run.record.jobs, key=lambda told: told.key.job))
    return replace(run, record=replace(run.record, jobs=told))


def some_event(chance: random.Random, run: DrivenRun) -> Progress:
    index = chance.randrange(len(run.jobs))
    attempt = run.jobs[index].spec.key.attempt
    return chance.choice(
        [
            Awarding(index, attempt, WS),
            Declined(index, attempt),
            Awarded(index, attempt, WS, False, (), "only agent"),
            StateChange(JobKey(RUN, index, attempt), chance.choice(list(JobState)), AT),
            Grown(index, (*run.jobs, job(len(run.jobs)))),
        ]
    )


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_what_is_read_is_what_was_written(seed: int, tmp_path: Path) -> None:
    chance, run = random.Random(seed), run_of(5)
    with driven_in(tmp_path) as driven:
        await driven.take(run.record, run.jobs, 1)
        for _ in range(60):
            run = after(run, some_event(chance, run))
            await driven.progress(run)
            assert driven.find(RUN) == in_order(run)
    with driven_in(tmp_path) as again:
        assert again.unfinished() == [in_order(run)]
        run = after(run, Awarding(0, run.jobs[0].spec.key.attempt, WS))
        await again.progress(run)  # nothing is remembered of what was written before
        assert again.find(RUN) == in_order(run)
        await again.progress(replace(run, over=True))
        await again.forget(RUN)
        assert again.find(RUN) is None
        await again.take(run_of(2).record, run_of(2).jobs, 1)
        assert again.find(RUN) == run_of(2)


async def test_a_driver_that_was_replaced_changes_nothing(tmp_path: Path) -> None:
    with driven_in(tmp_path) as driven:
        run = run_of(3)
        await driven.take(run.record, run.jobs, 2)
        late = after(replace(run, epoch=1), Awarding(0, 1, WS))
        await driven.progress(late)
        assert driven.find(RUN) == replace(run, epoch=2)


def test_one_change_of_a_large_run_is_one_row() -> None:
    run = run_of(1000)
    before = Jobs(run.jobs, run.record.jobs)
    for event in (
        Awarding(500, 1, WS),
        Awarded(500, 1, WS, False, (), "only agent"),
        StateChange(JobKey(RUN, 7, 1), JobState.RUNNING, AT),
    ):
        run = after(run, event)
        now = Jobs(run.jobs, run.record.jobs)
        [(index, _, _)] = changes(before, now)
        assert index in (500, 7)
        before = now
    assert len(changes(Jobs(), before)) == 1000
