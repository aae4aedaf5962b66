"""Which job of a run a command runs beside."""

from datetime import UTC, datetime

import pytest

from dstack_cli.beside import job_meant
from dstack_cli.commands.exec import run_beside
from dstack_cli.misused import Misused
from dstack_cli.picture import RunPicture
from dstack_mesh.faults import Missing, Refused
from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.job import JobKey, JobRecord, JobState, Revision, RunRecord, StateChange

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
RUN = RunId("0" * 26)


def run(*states: JobState, count: int = 0) -> RunPicture:
    """A run with a job in each state, and perhaps more to come."""
    changes = [StateChange(JobKey(RUN, at, 1), state, AT) for at, state in enumerate(states)]
    jobs = tuple(JobRecord(one.key, f"w{one.key.job}", "bash", one) for one in changes)
    many = count or len(states)
    name, revision = RunName("calm-ibex-1"), Revision("lab")
    return RunPicture(RunRecord(RUN, name, "x", "ana", AT, many, revision, jobs=jobs))


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("", ("@", (), None, False)),
        ("calm", ("calm", (), None, False)),
        ("@ ls -l --job 3", ("@", ("ls", "-l", "--job", "3"), None, False)),
        ("@ -- ls -l", ("@", ("ls", "-l"), None, False)),
        ("@ --job 1 ls -t", ("@", ("ls", "-t"), 1, False)),
        ("--job 1 -t @ sh -i", ("@", ("sh", "-i"), 1, True)),
        ("--job=1 @ -t -- -x", ("@", ("-x",), 1, True)),
        ("@ tar c - --", ("@", ("tar", "c", "-", "--"), None, False)),
    ],
)
def test_what_follows_the_run_is_the_command(line: str, means: tuple[object, ...]) -> None:
    context = run_beside.make_context("exec", line.split())
    told = context.params
    assert (told["run"], told["command"], told["job"], told["tty"]) == means


R, D, W = JobState.RUNNING, JobState.DONE, JobState.WAITING


def test_the_one_that_runs_is_meant_and_of_several_the_one_that_is_named() -> None:
    assert job_meant(run(D, R, W), None).key.job == 1
    assert job_meant(run(D, JobState.STOPPING), None).key.job == 1
    assert job_meant(run(R, R, R), 2).key.job == 2
    with pytest.raises(Misused, match="2 jobs of calm-ibex-1 run") as several:
        job_meant(run(R, D, R), None)
    assert "0 (w0) and 2 (w2)" in several.value.why
    assert several.value.hint == "dstack exec calm-ibex-1 --job 0"


@pytest.mark.parametrize(
    ("picture", "number", "what", "fix"),
    [
        (run(D, D), None, "calm-ibex-1 does not run any more", "dstack restart"),
        (run(D, JobState.SAVING), None, "calm-ibex-1 does not run any more", "dstack logs"),
        (run(D, R), 0, "Job 0 of calm-ibex-1 does not run any more", "dstack logs"),
        (run(W), None, "calm-ibex-1 does not run yet", "dstack explain calm-ibex-1"),
        (run(R, count=3), 2, "Job 2 of calm-ibex-1 does not run yet", "dstack explain"),
    ],
)
def test_what_does_not_run_says_so_and_what_helps(
    picture: RunPicture, number: int | None, what: str, fix: str
) -> None:
    with pytest.raises(Refused, match=what) as refused:
        job_meant(picture, number)
    assert fix in refused.value.hint


def test_a_job_that_a_run_never_had_is_missing() -> None:
    with pytest.raises(Missing, match="calm-ibex-1 has no job 1"):
        job_meant(run(R), 1)
