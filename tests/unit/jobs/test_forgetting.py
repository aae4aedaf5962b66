"""What an agent forgets of runs that ended, and what of them it keeps."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_agent.database import Database
from dstack_agent.driven import DrivenRuns
from dstack_agent.forgetting import Forgetting, Remembering
from dstack_agent.jobs.places import folder_of
from dstack_agent.records import Given, Records
from dstack_agent.touched import Touched
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_mesh.signing import Signed
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    JobKey,
    JobSpec,
    JobState,
    RunRecord,
    StateChange,
)
from dstack_scheduler.needs import Needs
from support.machines import SetClock

DIGEST = Digest(b"d" * 32)
ANA = PeerId("a" * 32)
DAY = 86_400.0
NOW = 1000 * DAY
LONG_AGO = NOW - 366 * DAY


@dataclass
class Agent:
    """An agent's memory, and who is tagged."""

    database: Database
    records: Records
    driven: DrivenRuns
    touched: Touched
    jobs: Path
    tagged: set[RunId] = field(default_factory=set[RunId])

    async def forget(self, **rules: float) -> int:
        known = Remembering(**{"least": 0} | rules)  # pyright: ignore[reportArgumentType]
        tagged, clock = lambda: frozenset(self.tagged), SetClock(NOW)
        return await Forgetting(self.records, self.driven, tagged, self.jobs, clock, known).look()

    def left(self) -> set[RunId]:
        return set(self.records.run_ids())


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    database, touched = Database(tmp_path / "agent.db"), Touched()
    records, driven = Records(database, touched), DrivenRuns(database)
    yield Agent(database, records, driven, touched, tmp_path / "jobs")
    database.close()


def run(number: int) -> RunId:
    return RunId(f"{number:026d}")


def spec_of(key: JobKey) -> JobSpec:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return JobSpec(key, RunName("calm-ibex-1"), "train", "bash", ("true",), Needs(), DIGEST, at)


async def begun(agent: Agent, run_id: RunId, job: int = 0) -> JobKey:
    key = JobKey(run_id, job, 1)
    await agent.records.accept(spec_of(key), (), Given(ANA, 1))
    await agent.records.enter(StateChange(key, JobState.RUNNING, datetime.fromtimestamp(0, UTC)))
    return key


async def ended(agent: Agent, run_id: RunId, at: float = LONG_AGO, job: int = 0) -> JobKey:
    key = await begun(agent, run_id, job)
    state = StateChange(key, JobState.DONE, datetime.fromtimestamp(at, UTC), exit_code=0)
    await agent.records.finish(Fin(key, state, 0, DIGEST, 0, DIGEST))
    await agent.records.sign(key, 0, [Signed(b"body", b"key", b"signature")], last=True)
    return key


def saved(key: JobKey) -> ArtifactSaved:
    return ArtifactSaved(key, "model", DIGEST, 1, 10, complete=True)


async def test_what_ended_long_ago_and_kept_nothing_is_forgotten_whole(agent: Agent) -> None:
    key = await ended(agent, run(1))
    folder_of(agent.jobs, key).mkdir(parents=True)
    await ended(agent, run(2), NOW - 364 * DAY)
    agent.touched.take()
    assert await agent.forget() == 1
    assert agent.left() == {run(2)}
    assert not folder_of(agent.jobs, key).exists()
    assert agent.touched.take()[0] == {run(1)}, "other agents are told of it no more"
    for table in ("job", "state", "event", "artifact"):
        [(rows,)] = agent.database.read(f"SELECT count(*) FROM {table} WHERE run_id = ?", [run(1)])
        assert rows == 0, table


async def test_what_was_kept_is_named_or_goes_on_keeps_a_run(agent: Agent) -> None:
    kept = await ended(agent, run(1))
    await agent.records.save_artifact(saved(kept))
    await ended(agent, run(2))
    agent.tagged = {run(2)}
    await ended(agent, run(3))
    await begun(agent, run(3), job=1)
    handed = spec_of(await ended(agent, run(4)))
    record = RunRecord(run(4), handed.run_name, "train", "ana", handed.submitted_at, 1)
    await agent.driven.take(record, (DrivenJob(handed),), 1)
    assert await agent.forget(most=1) == 0
    assert agent.left() == {run(1), run(2), run(3), run(4)}
    await agent.driven.progress(replace(agent.driven.unfinished()[0], over=True))
    agent.tagged = set()
    assert await agent.forget() == 2
    assert agent.left() == {run(1), run(3)}


async def test_beyond_so_many_attempts_the_oldest_ends_go_whatever_their_age(agent: Agent) -> None:
    for number in range(6):
        await ended(agent, run(number), NOW - (6 - number))
    assert await agent.forget(most=4) == 2
    assert agent.left() == {run(number) for number in range(2, 6)}


async def test_however_far_a_clock_jumps_the_newest_stay(agent: Agent) -> None:
    for number in range(6):
        await ended(agent, run(number), LONG_AGO + number)
    assert await agent.forget(least=4) == 2
    assert agent.left() == {run(number) for number in range(2, 6)}


async def test_jobs_that_ended_before_that_was_noted_end_when_it_is(
    agent: Agent, tmp_path: Path
) -> None:
    await ended(agent, run(1))
    await begun(agent, run(2))
    await agent.database.write(lambda db: db.execute("UPDATE job SET ended_at = NULL"))
    later = Database(tmp_path / "agent.db")
    try:
        [(found, at, attempts)] = Records(later).bare()
    finally:
        later.close()
    assert (found, attempts) == (run(1), 1)
    assert timedelta(seconds=abs(at - datetime.now(UTC).timestamp())) < timedelta(minutes=5)
