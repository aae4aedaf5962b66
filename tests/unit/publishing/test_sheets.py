"""A run of any size is told in records of a bounded one, and read again as it was."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_agent.sheets import LAST_JOBS, MOST_BYTES, Written, joined, written
from dstack_agent.wire import stored
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_mesh.records.record import PAYLOAD_BYTES
from dstack_scheduler.job import (
    ArtifactSaved,
    JobKey,
    JobRecord,
    JobState,
    RunRecord,
    Source,
    StateChange,
)
from dstack_scheduler.wire.fields import ITEMS

RUN_ID = RunId("0" * 26)
AT = datetime(2026, 11, 20, tzinfo=UTC)
AGENT = PeerId("b" * 32)


def job(index: int, artifacts: int = 1, attempt: int = 1, cause: str = "") -> JobRecord:
    key = JobKey(RUN_ID, index, attempt)
    kept = [ArtifactSaved(key, f"out/{at:05}", Digest(bytes(32)), 1, 5, True) for at in
            range(artifacts)]  # fmt: skip
    return JobRecord(
        key,
        "train",
        "bash",
        StateChange(key, JobState.DONE, AT, cause=cause, exit_code=0),
        AGENT,
        "ws-1",
        artifacts=tuple(kept),
        copies=(Source(AGENT),),
    )


def run(*jobs: JobRecord, variables: int = 1) -> RunRecord:
    values = {"a": "x" * variables}
    name = RunName("calm-ibex-1")
    return RunRecord(RUN_ID, name, "train", "", AT, len(jobs), variables=values, jobs=jobs)


def read(told: Written | None) -> RunRecord:
    """As another agent reads it."""
    assert told is not None
    sheets = [stored.unpack_sheet(told.sheets[key]) for key in sorted(told.sheets)]
    return joined(stored.unpack_run(told.run), sheets)


def test_a_run_that_fits_is_one_record() -> None:
    told = written(run(job(0), job(1)))
    assert told is not None and not told.sheets
    assert read(told) == run(job(0), job(1))


@settings(max_examples=30)
@given(st.dictionaries(st.integers(0, 9_999), st.integers(0, 900), max_size=4), st.integers(0, 300))
def test_whatever_jobs_kept_is_told_and_fits(few: dict[int, int], many: int) -> None:
    jobs = {index: job(index) for index in range(many)}
    jobs |= {index: job(index, artifacts) for index, artifacts in few.items()}
    whole = run(*(jobs[index] for index in sorted(jobs)))
    told = written(whole)
    assert told is not None
    assert all(len(each) <= PAYLOAD_BYTES for each in (told.run, *told.sheets.values()))
    assert read(told) == whole


def test_a_job_that_changes_changes_its_sheet_alone() -> None:
    jobs = [job(index) for index in range(500)]
    before = written(run(*jobs))
    jobs[300] = job(300, attempt=2)
    after = written(run(*jobs))
    assert before is not None and after is not None
    assert before.run == after.run
    assert sum(before.sheets[key] != sheet for key, sheet in after.sheets.items()) == 1


def test_variables_go_first_and_of_a_run_that_is_too_large_the_last_jobs_are_told() -> None:
    assert read(written(run(job(0), variables=60_000))) == replace(run(job(0)), variables={})
    large = run(*(job(index, artifacts=12) for index in range(1_000)), variables=60_000)
    told = read(written(large))
    assert [one.key.job for one in told.jobs] == list(range(1_000 - LAST_JOBS, 1_000))
    assert (told.job_count, told.jobs[0].artifacts) == (1_000, ())


def test_three_thousand_jobs_that_keep_something_are_told_whole() -> None:
    whole = run(*(job(index) for index in range(3_000)))
    told = written(whole)
    assert told is not None
    print(f"{sum(map(len, told.sheets.values())):,} bytes on {len(told.sheets)} sheets")
    assert sum(map(len, told.sheets.values())) <= MOST_BYTES
    assert read(told) == whole


def test_what_fits_nowhere_hides_no_other_job() -> None:
    told = read(written(run(job(0, cause="x" * PAYLOAD_BYTES), job(1, 300), job(2, 300))))
    assert [one.key.job for one in told.jobs] == [1, 2]


def test_what_a_wrong_writer_puts_on_sheets_stays_within_what_readers_take() -> None:
    often = [[job(7)] for _ in range(3 * ITEMS)]
    [one] = joined(run(), often).jobs
    assert len(one.artifacts) == ITEMS
    stale = joined(run(), [[job(1, attempt=2)], [job(1, 3)]])
    assert stale.jobs == (job(1, attempt=2),)
