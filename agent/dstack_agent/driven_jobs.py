"""The jobs of a run that is driven here, a row each: of a large run little changes at a time."""

import sqlite3
from collections.abc import Iterable

from dstack_agent.database import Database
from dstack_agent.wire.stored import pack_driven, pack_job, unpack_driven, unpack_job
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import JobRecord

Row = tuple[int, bytes | None, bytes | None]
"""A job's index, how it is driven, and what is told of it; none of either where nothing is."""


@frozen
class Jobs:
    """All jobs of a run.

    Attributes:
        driven: In the order of their indexes; none for a run that others drove.
        told: What is told of some of them.
    """

    driven: tuple[DrivenJob, ...] = ()
    told: tuple[JobRecord, ...] = ()


def changes(before: Jobs, now: Jobs) -> list[Row]:
    """Rows of the jobs that are others than before; values are compared by identity."""
    was, told = _by_index(before), _by_index(now)
    return [
        (index, pack_driven(driven) if driven else None, pack_job(job) if job else None)
        for index, (driven, job) in told.items()
        if not _same(was.get(index), (driven, job))
    ]


def write(database: sqlite3.Connection, run_id: RunId, rows: Iterable[Row]) -> None:
    """Puts rows into the place of those of before."""
    database.executemany(
        "INSERT OR REPLACE INTO driven_job (run_id, job, driven, told) VALUES (?, ?, ?, ?)",
        [(run_id, *row) for row in rows],
    )


def read(database: Database, run_id: RunId) -> Jobs:
    """The jobs of a run, in the order of their indexes. Raises Invalid."""
    rows = database.read("SELECT driven FROM driven_job WHERE run_id = ? ORDER BY job", (run_id,))
    driven = tuple(unpack_driven(row[0]) for row in rows if isinstance(row[0], bytes))
    return Jobs(driven, read_told(database, run_id))


def read_told(database: Database, run_id: RunId) -> tuple[JobRecord, ...]:
    """What is told of the jobs of a run, in the order of their indexes. Raises Invalid."""
    rows = database.read("SELECT told FROM driven_job WHERE run_id = ? ORDER BY job", (run_id,))
    return tuple(unpack_job(row[0]) for row in rows if isinstance(row[0], bytes))


_Both = tuple[DrivenJob | None, JobRecord | None]


def _by_index(jobs: Jobs) -> dict[int, _Both]:
    driven = {job.spec.key.job: job for job in jobs.driven}
    told = {job.key.job: job for job in jobs.told}
    return {index: (driven.get(index), told.get(index)) for index in driven.keys() | told.keys()}


def _same(one: _Both | None, other: _Both) -> bool:
    return one is not None and one[0] is other[0] and one[1] is other[1]
