"""What the agent remembers, over restarts."""

import sqlite3
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_agent.database import Database
from dstack_agent.driven import DrivenRun, DrivenRuns
from dstack_agent.jobs.event import StopAsked
from dstack_agent.listing import MOST_RUNS, Listings
from dstack_agent.records import Records
from dstack_agent.tags import MOST_OF_ONE, Tags
from dstack_agent.touched import Touched
from dstack_mesh.card import PeerCard
from dstack_mesh.faults import Busy, Conflict, Missing, Refused
from dstack_mesh.ids import Digest, MeshId, PeerId, RunId, RunName
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    JobKey,
    JobSpec,
    JobState,
    RunRecord,
    StateChange,
    TagRecord,
)
from dstack_scheduler.needs import Needs

RUN = RunId("0" * 26)
AT = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = Digest(b"d" * 32)
ME = PeerCard(PeerId("a" * 32), MeshId(""), "ws-1", (), "0", True)


def spec(job: int = 0, attempt: int = 1, run: RunId = RUN) -> JobSpec:
    return JobSpec(
        key=JobKey(run, job, attempt),
        run_name=RunName("calm-ibex-1"),
        workflow="train",
        provider="bash",
        commands=("echo hi",),
        needs=Needs(gpus=1),
        code_digest=DIGEST,
        submitted_at=AT,
        secret_names=("TOKEN",),
    )


def change(key: JobKey, state: JobState) -> StateChange:
    return StateChange(key, state, AT, "because", "reason", 3)


def fin(key: JobKey) -> Fin:
    return Fin(key, change(key, JobState.FAILED), 5, DIGEST, 0, DIGEST)


@contextmanager
def opened(folder: Path) -> Generator[Database]:
    database = Database(folder / "state" / "agent.db")
    try:
        yield database
    finally:
        database.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    with opened(tmp_path) as found:
        yield found


async def test_a_job_and_its_story_are_remembered_over_a_restart(tmp_path: Path) -> None:
    key = spec().key
    artifact = ArtifactSaved(key, "model", DIGEST, 3, 70, complete=False)
    with opened(tmp_path) as database:
        records = Records(database)
        assert await records.accept(spec(), ("GPU-1", "GPU-2"))
        await records.enter(change(key, JobState.PREPARING))
        await records.launching(key)
        await records.enter(change(key, JobState.RUNNING))
        await records.save_artifact(artifact)
        await records.order_stop(key, StopAsked(False, "stopped by ana"))
    with opened(tmp_path) as database:
        records = Records(database)
        (accepted,) = records.unfinished()
        assert accepted.spec == spec()
        assert accepted.gpu_uuids == ("GPU-1", "GPU-2")
        assert accepted.launching
        assert accepted.order == StopAsked(False, "stopped by ana")
        assert records.history(key) == [
            change(key, JobState.PREPARING),
            change(key, JobState.RUNNING),
        ]
        assert records.artifacts(key) == [artifact]


async def test_accepting_the_same_job_again_changes_nothing(database: Database) -> None:
    records = Records(database)
    assert await records.accept(spec(), ("GPU-1",))
    assert not await records.accept(spec(), ("GPU-2",))
    assert records.find(spec().key).gpu_uuids == ("GPU-1",)


async def test_an_abort_is_never_softened_to_a_stop(database: Database) -> None:
    records = Records(database)
    await records.accept(spec(), ())
    await records.order_stop(spec().key, StopAsked(True, "aborted"))
    await records.order_stop(spec().key, StopAsked(False, "stopped"))
    assert records.find(spec().key).order == StopAsked(True, "aborted")


async def test_the_end_is_one_with_the_last_state(database: Database) -> None:
    records = Records(database)
    await records.accept(spec(), ())
    await records.finish(fin(spec().key))
    assert records.unfinished() == []
    assert records.find(spec().key).fin == fin(spec().key)
    assert records.history(spec().key) == [change(spec().key, JobState.FAILED)]


async def test_attempt_zero_is_the_newest(database: Database) -> None:
    records = Records(database)
    for attempt in (1, 3, 2):
        await records.accept(spec(attempt=attempt), ())
    assert records.find(JobKey(RUN, 0, 0)).key.attempt == 3
    assert records.find(JobKey(RUN, 0, 2)).key.attempt == 2
    for unknown in (JobKey(RUN, 0, 4), JobKey(RUN, 1, 0), JobKey(RunId("1" * 26), 0, 0)):
        with pytest.raises(Missing):
            records.find(unknown)


async def test_artifacts_of_an_aborted_job_are_forgotten(database: Database) -> None:
    records = Records(database)
    await records.save_artifact(ArtifactSaved(spec().key, "m", DIGEST, 1, 1, complete=False))
    await records.forget_artifacts(spec().key)
    assert records.artifacts(spec().key) == []


async def test_secret_values_have_no_place_in_the_database(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        await Records(database).accept(spec(), ())
        names = [str(row[0]) for row in database.read("SELECT sql FROM sqlite_master")]
    assert not any("secret" in name for name in names)


def test_records_of_a_newer_version_are_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        database._writing.execute("PRAGMA user_version=99")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(Refused, match="newer version"):
        Database(tmp_path / "state" / "agent.db")


def tag(run_id: RunId | None, seconds: int) -> TagRecord:
    return TagRecord("lab/repo", "v1", run_id, "calm-ibex-1", AT + timedelta(seconds=seconds))


async def test_the_newest_statement_about_a_tag_wins_in_any_order(database: Database) -> None:
    tags = Tags(database)
    old, new = tag(RUN, 0), tag(None, 5)
    await tags.state(new)
    await tags.state(old)
    assert tags.all() == (new,)
    same = tag(RunId("1" * 26), 5)
    await tags.state(same)
    assert tags.all() == (same,)


async def test_a_claim_that_lost_unknown_is_kept_beside_until_somebody_settles_it(
    database: Database,
) -> None:
    first, second = tag(RunId("1" * 26), 1), tag(RunId("2" * 26), 2)
    for order in ((first, second), (second, first)):
        tags = Tags(database)
        for one in order:
            await tags.state(replace(one, tag=f"v{order.index(first)}"))
        kept = [one for one in tags.all() if one.tag == f"v{order.index(first)}"]
        assert {one.run_id for one in kept} == {first.run_id, second.run_id}
    settled = replace(tag(RunId("3" * 26), 9), tag="v0", over=second.at)
    await tags.state(settled)
    assert [one for one in tags.all() if one.tag == "v0"] == [settled]
    knowing = replace(tag(RunId("4" * 26), 12), tag="v0", over=settled.at)
    await tags.state(knowing)
    assert [one for one in tags.all() if one.tag == "v0"] == [knowing]


async def test_a_peer_keeps_so_many_names_and_the_owner_any_number(database: Database) -> None:
    tags, peer, other = Tags(database), PeerId("a" * 32), PeerId("b" * 32)

    def named(number: int, run_id: RunId | None = RUN, seconds: int = 0) -> TagRecord:
        return replace(tag(run_id, seconds), tag=f"v{number}")

    for number in range(MOST_OF_ONE):
        await tags.state(named(number), peer)
    with pytest.raises(Busy) as refused:
        await tags.state(named(MOST_OF_ONE), peer)
    assert "dstack untag" in refused.value.hint
    await tags.state(named(MOST_OF_ONE + 1), other)
    await tags.state(named(MOST_OF_ONE + 2))
    await tags.state(named(3, seconds=1), peer)
    await tags.state(named(7, run_id=None, seconds=1), peer)
    await tags.state(named(MOST_OF_ONE), peer)
    kept = {each.tag for each in tags.all()}
    assert len(kept) == MOST_OF_ONE + 2
    assert "v7" not in kept, "what was taken back makes room"


def driven_record(jobs: int = 2) -> RunRecord:
    return RunRecord(RUN, RunName("calm-ibex-1"), "train", "ana@laptop", AT, jobs)


async def test_a_driven_run_changes_hands_by_epoch(database: Database) -> None:
    driven = DrivenRuns(database)
    jobs = (DrivenJob(spec(0)), DrivenJob(spec(1), after=(0,)))
    assert await driven.take(driven_record(), jobs, 2)
    assert not await driven.take(driven_record(), jobs, 2)
    with pytest.raises(Conflict):
        await driven.take(driven_record(), jobs, 1)
    await driven.order_stop(RUN, False, "stopped")
    (run,) = driven.unfinished()
    assert (run.jobs, run.epoch, run.stop_cause) == (jobs, 2, "stopped")
    await driven.progress(DrivenRun(driven_record(), jobs, 2, over=True))
    assert driven.unfinished() == []
    assert await driven.take(driven_record(), jobs, 3)
    (again,) = driven.unfinished()
    assert (again.epoch, again.stop_cause) == (3, "stopped")


async def test_driven_runs_are_found_by_name_and_only_the_newest_that_are_over_stay(
    database: Database,
) -> None:
    driven = DrivenRuns(database, most_over=2)

    async def drive(number: int, name: str, over: bool) -> None:
        run = RunId(f"{number:026d}")
        record = replace(driven_record(), run_id=run, run_name=RunName(name))
        await driven.take(record, (DrivenJob(spec(run=run)),), 1)
        await driven.progress(DrivenRun(record, (DrivenJob(spec(run=run)),), 1, over=over))

    await drive(1, "calm-ibex-1", over=False)
    for number in range(2, 6):
        await drive(number, f"lazy-bobcat-{number}", over=True)
    await drive(6, "calm-ibex-2", over=False)
    assert [int(run_id) for run_id in driven.run_ids()] == [6, 5, 4, 1]
    assert [int(run_id) for run_id in driven.run_ids(("calm", "x"))] == [6, 1]
    assert [int(run_id) for run_id in driven.run_ids(("calm",), most=1)] == [6]
    assert [int(run_id) for run_id in driven.run_ids((f"{4:026d}",))] == [4]
    assert driven.knows(RunId(f"{4:026d}")) and not driven.knows(RunId(f"{3:026d}"))
    assert [int(run.record.run_id) for run in driven.unfinished()] == [1, 6]


async def test_a_run_that_is_inherited_is_told_of_and_one_that_is_known_stays_as_it_is(
    database: Database,
) -> None:
    touched = Touched()
    driven = DrivenRuns(database, touched)
    giver = PeerId("c" * 32)
    await driven.inherit(driven_record(), Asker(giver))
    assert touched.take() == ({RUN}, False)
    assert driven.told(RUN) == replace(driven_record(), given_by=giver)
    assert driven.unfinished() == []
    await driven.inherit(replace(driven_record(), target="other"), Asker(giver))
    told = driven.told(RUN)
    assert told is not None and told.target == "train"
    await driven.forget(RUN)
    assert driven.told(RUN) is None and not driven.knows(RUN)


async def test_a_listing_joins_what_is_driven_with_what_runs_here(database: Database) -> None:
    records, driven = Records(database), DrivenRuns(database)
    await records.accept(spec(1), ("GPU-1",))
    await records.enter(change(spec(1).key, JobState.RUNNING))
    await driven.take(driven_record(), (DrivenJob(spec(0)), DrivenJob(spec(1))), 1)
    listings = Listings(records, driven, Tags(database), lambda: ME)
    (run,) = listings.runs(())
    assert (run.job_count, run.target) == (2, "train")
    assert [(job.key.job, job.agent_name) for job in run.jobs] == [(1, "ws-1")]
    assert run.jobs[0].state.state is JobState.RUNNING
    assert [each.run_id for each in listings.runs(("calm",))] == [RUN]
    assert list(listings.runs(("calmer",))) == []


async def test_a_run_that_cannot_be_read_is_missing_from_a_listing_alone(
    database: Database,
) -> None:
    records, other = Records(database), RunId("1" * 26)
    for run in (RUN, other):
        await records.accept(spec(run=run), ())
    await records.enter(replace(change(spec().key, JobState.RUNNING), cause="\0"))
    listings = Listings(records, DrivenRuns(database), Tags(database), lambda: ME)
    assert [run.run_id for run in listings.runs(())] == [other]
    assert [run.run_id for run in listings.runs(("calm",))] == [other]


async def test_a_listing_has_the_newest_runs_and_those_that_a_tag_names(database: Database) -> None:
    records, tags = Records(database), Tags(database)
    runs = [RunId(f"{number:026d}") for number in range(MOST_RUNS + 5)]
    for run in runs:
        await records.accept(spec(run=run), ())
    await tags.state(TagRecord("repo", "best", runs[2], RunName("calm-ibex-1"), AT))
    listings = Listings(records, DrivenRuns(database), tags, lambda: ME)
    listed = [run.run_id for run in listings.runs(())]
    assert listed == [*reversed(runs[5:]), runs[2]]
    older = [run.run_id for run in listings.runs((), before=runs[7])]
    assert older == [runs[6], runs[5], runs[2]]
    (named,) = listings.runs((runs[0],))
    assert named.run_id == runs[0]


async def test_a_listing_takes_as_many_names_as_the_wire_does(database: Database) -> None:
    records = Records(database)
    await records.accept(spec(), ())
    names = tuple(f"no-such-run-{number}" for number in range(9_999))
    assert records.run_ids((*names, "calm")) == [RUN]


async def test_what_went_wrong_is_told_though_the_database_rolled_back_by_itself(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path / "agent.db")

    def twice(db: sqlite3.Connection) -> None:
        for _ in range(2):  # as a full disk does
            db.execute("INSERT OR ROLLBACK INTO driven VALUES ('a', 1, x'', '', 0, 0, '', '')")

    with pytest.raises(sqlite3.IntegrityError):
        await database.write(twice)
    assert database.read("SELECT * FROM driven") == []
    database.close()
