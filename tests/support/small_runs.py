"""Small runs, and what happens to their jobs."""

from datetime import UTC, datetime

from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobKey, JobState, StateChange
from dstack_scheduler.run import Changed, Part, Run, StopAsked

RUN = RunId("0" * 26)
AT = datetime(2026, 11, 20, tzinfo=UTC)
STOP = StopAsked(abort=False, cause="stopped by ana", at=AT)
ABORT = StopAsked(abort=True, cause="aborted by ana", at=AT)


def key(job: int, attempt: int = 1) -> JobKey:
    return JobKey(RUN, job, attempt)


def ended(job: int, state: JobState = JobState.DONE, code: int | None = 0) -> Changed:
    return Changed(StateChange(key(job), state, AT, "", exit_code=code))


def chain(length: int = 2) -> Run:
    return Run([Part(key(n), f"job-{n}", (n - 1,) if n else ()) for n in range(length)])
