"""Exit codes: the job's own where it has one, else one that says whose fault it was."""

from datetime import UTC, datetime

import pytest

from dstack_cli import exit_codes
from dstack_cli.watching import summary, why
from dstack_mesh.faults import ERRORS, EXIT_CODES, Fault
from dstack_mesh.ids import RunId
from dstack_scheduler.job import ENDED, JobKey, JobState, StateChange

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


def end(
    state: JobState, exit_code: int | None = None, reason: str = "", cause: str = ""
) -> StateChange:
    return StateChange(JobKey(RunId("01A"), 0), state, AT, cause, reason, exit_code)


@pytest.mark.parametrize(
    ("ended", "code", "source"),
    [
        (end(JobState.DONE, 0), 0, "job"),
        (end(JobState.FAILED, 3), 3, "job"),
        (end(JobState.FAILED, 137, "out-of-memory"), 137, "job"),
        (end(JobState.FAILED, 127, "command-not-found"), 127, "job"),
        (end(JobState.FAILED, 143, "time-limit"), 124, "dstack"),
        (end(JobState.FAILED, None, "image-missing"), 125, "dstack"),
        (end(JobState.LOST, None), 125, "dstack"),
        (end(JobState.STOPPED, 7), 7, "job"),
        (end(JobState.STOPPED), 143, "dstack"),
        (end(JobState.ABORTED), 137, "dstack"),
    ],
)
def test_how_a_run_ended_decides_the_exit_code(ended: StateChange, code: int, source: str) -> None:
    assert (exit_codes.of_end(ended), exit_codes.source_of(ended)) == (code, source)


@pytest.mark.parametrize("state", sorted(ENDED, key=str))
def test_every_end_has_an_exit_code(state: JobState) -> None:
    assert 0 <= exit_codes.of_end(end(state)) <= 255


@pytest.mark.parametrize("fault", list(Fault))
def test_our_own_trouble_is_125_where_a_job_is_followed_and_the_table_elsewhere(
    fault: Fault,
) -> None:
    error = ERRORS[fault]("x")
    assert exit_codes.of_error(error, follows=True) == 125
    assert exit_codes.of_error(error, follows=False) == EXIT_CODES[fault]


def test_a_plain_exit_needs_no_words_and_a_signal_does() -> None:
    assert why(end(JobState.FAILED, 3, cause="The commands ended with exit code 3.")) == ""
    killed = end(JobState.FAILED, 137, "out-of-memory", "Killed by the kernel: out of memory.\nx")
    assert why(killed) == ": Killed by the kernel: out of memory"
    assert summary("a-b-1", killed, "4m11s", []).startswith("failed in 4m11s, exit 137: Killed")
