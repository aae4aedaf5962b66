"""Runs as tables and as JSON."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dstack_cli import exit_codes
from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Column, Table
from dstack_cli.output.words import ago, rfc3339
from dstack_cli.picture import Away, RunPicture
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobRecord, JobState, RunRecord
from dstack_scheduler.names import job_id

SCHEMA = "dstack.runs/v1"
NONE = "<none>"

PS_COLUMNS = (
    Column("RUN"),
    Column("WORKFLOW", 1),
    Column("VARIABLES", 4),
    Column("WHERE", 2),
    Column("STATUS"),
    Column("SUBMITTED", 3),
    Column("OWNER", 6),
    Column("TAG", 5),
    Column("APPS", 7),
)
VERBOSE_COLUMNS = (Column("COPIES", 8), Column("ERROR", 9), Column("ID", 10))
STATUS_COLUMNS = (
    Column("RUN"),
    Column("TAG", 3),
    Column("JOB", 4),
    Column("WORKFLOW", 1),
    Column("VARIABLES", 5),
    Column("SUBMITTED", 6),
    Column("RUNNER", 2),
    Column("STATUS"),
)


def ps_listing(pictures: Sequence[RunPicture], now: datetime, verbose: bool = False) -> Listing:
    """One line for each run; `verbose` with its copies, and what went wrong or why it waits."""
    rows = [_ps_row(picture, now) for picture in pictures]
    if not verbose:
        return _listing(pictures, Table(PS_COLUMNS, tuple(rows)))
    more = ((_copies(picture), _error(picture), str(picture.record.run_id)) for picture in pictures)
    joined = tuple((*row, *told) for row, told in zip(rows, more, strict=True))
    return _listing(pictures, Table(PS_COLUMNS + VERBOSE_COLUMNS, joined))


def status_listing(
    pictures: Sequence[RunPicture], now: datetime, with_jobs: bool = True
) -> Listing:
    """A line for each run, and below it one for each of its jobs."""
    rows = [row for one in pictures for row in _status_rows(one, now)[: None if with_jobs else 1]]
    return _listing(pictures, Table(STATUS_COLUMNS, tuple(rows)))


def run_item(picture: RunPicture) -> dict[str, Json]:
    """A run for scripts."""
    record, end = picture.record, picture.deciding
    heard_at = min((one.heard_at for one in picture.away if one.heard_at), default=None)
    return {
        "run": record.run_name,
        "id": record.run_id,
        "workflow": record.target,
        "tag": picture.tags[0] if picture.tags else None,
        "tags": list(picture.tags),
        "owner": record.owner,
        "repo": record.revision.repo,
        "submitted_at": rfc3339(record.submitted_at),
        "status": picture.status.value,
        "exit_code": exit_codes.of_end(end) if end is not None else None,
        "reason": (end.reason or end.cause) if end is not None else "",
        "copies": picture.copies,
        "heard": picture.heard,
        "heard_at": rfc3339(heard_at) if heard_at is not None else None,
        "stale": picture.stale,
        "variables": dict(sorted(record.variables.items())),
        "jobs": [_job_item(record.run_id, job) for job in record.jobs],
    }


def variables_text(variables: Mapping[str, str], between: str = " ") -> str:
    """Variables as they would be typed."""
    return between.join(f"--{name} {value}" for name, value in sorted(variables.items()))


def where(record: RunRecord) -> str:
    """The agent that has the newest job; "" while none has."""
    return next((job.agent_name for job in reversed(record.jobs) if job.agent_name), "")


def _listing(pictures: Sequence[RunPicture], table: Table) -> Listing:
    return Listing(
        schema=SCHEMA,
        items=[run_item(picture) for picture in pictures],
        table=table,
        names=[picture.record.run_name for picture in pictures],
        empty="There are no runs yet. Start one: dstack run",
    )


def _job_item(run_id: RunId, job: JobRecord) -> dict[str, Json]:
    end = job.state if job.state.state.ended else None
    return {
        "job": job.key.job,
        "id": job_id(run_id, job.key.job),
        "workflow": job.workflow,
        "provider": job.provider,
        "agent": job.agent_name or None,
        "attempt": job.key.attempt,
        "status": job.state.state.value,
        "exit_code": exit_codes.of_end(end) if end is not None else None,
        "reason": job.state.reason or job.state.cause,
        "gpus": list(job.gpu_uuids),
        "apps": list(job.apps),
    }


def _ps_row(picture: RunPicture, now: datetime) -> tuple[str, ...]:
    record = picture.record
    return (
        record.run_name,
        record.target,
        variables_text(record.variables),
        where(record) or "-",
        _status_text(picture, now),
        ago(record.submitted_at, now),
        record.owner,
        ", ".join(picture.tags),
        ", ".join(_open(picture)),
    )


def _open(picture: RunPicture) -> list[str]:
    """Names of the apps that `dstack app` leads to."""
    running = (job for job in picture.record.jobs if job.state.state is JobState.RUNNING)
    return [app for job in running for app in job.apps]


def _copies(picture: RunPicture) -> str:
    """How many copies of what it kept can be reached, and if they are too few, of how many."""
    if picture.copies is None:
        return ""
    few = picture.copies < picture.promised
    return f"{picture.copies} of {picture.promised}" if few else str(picture.copies)


def _error(picture: RunPicture) -> str:
    """Why it is not done: the cause of the job that decides, or of the newest one."""
    states = [picture.deciding] if picture.deciding is not None else []
    states += [job.state for job in reversed(picture.record.jobs)]
    told = next((state for state in states if state.state is not JobState.DONE), None)
    return (told.cause or told.reason).split("\n")[0] if told is not None else ""


def away_text(away: Sequence[Away], now: datetime) -> str:
    """Who does not answer, as "ws-2 last heard 3 mins ago" or "ws-2 revoked"."""
    return ", ".join(f"{one.name} {_why_away(one, now)}" for one in away)


def _why_away(one: Away, now: datetime) -> str:
    if one.revoked:
        return "revoked"
    return f"last heard {ago(one.heard_at, now)}" if one.heard_at else "does not answer"


def _status_text(picture: RunPicture, now: datetime) -> str:
    if not picture.heard:
        return "? (its agents do not answer)"
    end = picture.deciding
    code = exit_codes.of_end(end) if end is not None else 0
    last_known = f" ({away_text(picture.away, now)})" if picture.stale else ""
    return picture.status.value + (f" ({code})" if code else "") + last_known


def _status_rows(picture: RunPicture, now: datetime) -> list[tuple[str, ...]]:
    record = picture.record
    variables = variables_text(record.variables, "\n") or NONE
    submitted = ago(record.submitted_at, now)
    first = (
        record.run_name,
        _tag(picture),
        "",
        record.target,
        variables,
        submitted,
        where(record) or NONE,
        _whole_status(picture, now),
    )
    jobs = [
        (
            "",
            "",
            job_id(record.run_id, job.key.job),
            job.workflow or job.provider,
            variables,
            submitted,
            job.agent_name or NONE,
            job.state.state.value.upper(),
        )
        for job in record.jobs
    ]
    return [first, *jobs]


def _whole_status(picture: RunPicture, now: datetime) -> str:
    if not picture.heard:
        return "?"
    last_known = f" ({away_text(picture.away, now)})" if picture.stale else ""
    return picture.status.value.upper() + last_known


def _tag(picture: RunPicture) -> str:
    shown = ["*" if tag == picture.record.run_name else tag for tag in picture.tags]
    return ", ".join(shown) or NONE
