"""The runs that this agent drives, as its database keeps them."""

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from dstack_agent import driven_jobs
from dstack_agent.database import Database
from dstack_agent.driven_jobs import Jobs, changes
from dstack_agent.named import MEANT, Named
from dstack_agent.touched import Touched
from dstack_mesh.faults import Conflict, MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.job import RunRecord
from dstack_scheduler.wire.behalf import behalf_of_text, behalf_text
from dstack_scheduler.wire.stored import pack_drive, unpack_drive

log = logging.getLogger(__name__)

MOST_OVER = 10_000
"""Runs that are over and remembered; of older ones the agents that had their jobs know."""


@frozen
class DrivenRun:
    """A run that is driven here.

    Attributes:
        behalf: Who handed it over.
        stop_cause: Why a person wants it to end; None while nobody does.
    """

    record: RunRecord
    jobs: tuple[DrivenJob, ...]
    epoch: int
    behalf: Asker = OWNER
    stop_cause: str | None = None
    abort: bool = False
    over: bool = False


class DrivenRuns:
    """Runs that were handed over, with how far they have come. `touched` hears which change."""

    def __init__(
        self, database: Database, touched: Touched | None = None, most_over: int = MOST_OVER
    ) -> None:
        self._database = database
        self._touched = touched or Touched()
        self._most_over = most_over
        # Of runs that go on, so that a change is seen without reading. Without, all is written.
        self._written: dict[RunId, Jobs] = {}

    async def take(
        self, record: RunRecord, jobs: tuple[DrivenJob, ...], epoch: int, behalf: Asker = OWNER
    ) -> bool:
        """Writes down durably that the run is driven here; False if that was known.

        Makes room for it: of the runs that are over only the newest stay.

        Raises:
            Conflict: A higher epoch was seen.
        """
        request, now = _packed(record, epoch), Jobs(jobs, record.jobs)
        rows = changes(Jobs(), now)

        def change(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "SELECT epoch FROM driven WHERE run_id = ?", (record.run_id,)
            ).fetchone()
            if row is not None and row[0] > epoch:
                raise Conflict(
                    "Another driver has taken the run over.",
                    f"Its epoch is {row[0]}, that of this call {epoch}.",
                    code="epoch",
                )
            if row is not None and row[0] == epoch:
                return False
            # A stop that a person ordered outlives the driver that was to carry it out.
            connection.execute(
                "INSERT INTO driven (run_id, run_name, epoch, request, behalf)"
                " VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (run_id) DO UPDATE SET epoch = excluded.epoch,"
                " request = excluded.request, behalf = excluded.behalf, over = 0",
                (record.run_id, record.run_name, epoch, request, behalf_text(behalf)),
            )
            connection.execute("DELETE FROM driven_job WHERE run_id = ?", (record.run_id,))
            driven_jobs.write(connection, record.run_id, rows)
            old = "SELECT run_id FROM driven WHERE over = 1 ORDER BY run_id DESC LIMIT -1 OFFSET ?"
            for table in ("driven_job", "driven"):
                connection.execute(
                    f"DELETE FROM {table} WHERE run_id IN ({old})", (self._most_over,)
                )
            return True

        new = await self._database.write(change, durable=True)
        if new:
            self._written[record.run_id] = now
        self._touched.run(record.run_id)
        return new

    async def inherit(self, record: RunRecord, behalf: Asker) -> None:
        """Remembers a run that others drove, as one that is over; durable on return. One that is
        known here stays as it is."""
        head = (record.run_id, record.run_name, _packed(record), behalf_text(behalf))
        rows = changes(Jobs(), Jobs(told=record.jobs))

        def change(connection: sqlite3.Connection) -> None:
            made = connection.execute(
                "INSERT INTO driven (run_id, run_name, epoch, request, behalf, over)"
                " VALUES (?, ?, 0, ?, ?, 1) ON CONFLICT (run_id) DO NOTHING",
                head,
            )
            if made.rowcount:
                driven_jobs.write(connection, record.run_id, rows)

        await self._database.write(change, durable=True)
        self._touched.run(record.run_id)

    async def progress(self, run: DrivenRun) -> None:
        """Writes down how far the run has come."""
        run_id, now = run.record.run_id, Jobs(run.jobs, run.record.jobs)
        head = (_packed(run.record, run.epoch), int(run.over), run_id, run.epoch)
        rows = changes(self._written.get(run_id, Jobs()), now)

        def change(connection: sqlite3.Connection) -> bool:
            done = connection.execute(
                "UPDATE driven SET request = ?, over = ? WHERE run_id = ? AND epoch = ?", head
            )
            if done.rowcount:
                driven_jobs.write(connection, run_id, rows)
            return bool(done.rowcount)

        if await self._database.write(change, durable=True) and not run.over:
            self._written[run_id] = now
        else:
            self._written.pop(run_id, None)
        self._touched.run(run_id)

    async def order_stop(self, run_id: RunId, abort: bool, cause: str) -> None:
        """Writes down durably that a person wants the run to end; an abort is never softened."""
        row = (int(abort), cause, run_id)
        await self._database.write(
            lambda db: db.execute(
                "UPDATE driven SET abort = max(abort, ?), stop_cause = ? WHERE run_id = ?", row
            ),
            durable=True,
        )

    async def forget(self, run_id: RunId) -> None:
        """Removes what is written down of a run."""

        def change(connection: sqlite3.Connection) -> None:
            over = "SELECT run_id FROM driven WHERE run_id = ? AND over = 1"
            for table in ("driven_job", "driven"):
                connection.execute(f"DELETE FROM {table} WHERE run_id IN ({over})", (run_id,))

        await self._database.write(change)

    def unfinished(self) -> list[DrivenRun]:
        """Runs that are still to be driven."""
        return self._select("over = 0", ())

    def run_ids(self, names: tuple[str, ...] = (), most: int = -1) -> list[RunId]:
        """Runs that are or were driven here, newest first and at most so many: all, or those named.

        They are named by their id or by a beginning of their name.
        """
        chosen = MEANT.format(table="driven") if names else "1"
        values = Named.of(names).values if names else ()
        rows = self._database.read(
            f"SELECT run_id FROM driven WHERE {chosen} ORDER BY run_id DESC LIMIT ?",
            (*values, most),
        )
        return [RunId(str(row[0])) for row in rows]

    def knows(self, run_id: RunId) -> bool:
        """Whether a run is or was driven here."""
        return bool(self._database.read("SELECT 1 FROM driven WHERE run_id = ?", (run_id,)))

    def told(self, run_id: RunId) -> RunRecord | None:
        """A run that is or was driven here as others are told of it, which is a small part of what
        is written of it."""
        rows = self._database.read("SELECT request, behalf FROM driven WHERE run_id = ?", (run_id,))
        for request, behalf in rows:
            assert isinstance(request, bytes)
            try:
                record, _, _ = unpack_drive(request)
                jobs = driven_jobs.read_told(self._database, run_id)
                given_by = behalf_of_text(str(behalf or "")).peer_id
                return replace(record, jobs=jobs, given_by=given_by)
            except MeshError as error:
                log.warning("what is driven of run %s cannot be read: %s", run_id, error)
        return None

    def find(self, run_id: RunId) -> DrivenRun | None:
        """A run that is or was driven here."""
        return next(iter(self._select("run_id = ?", (run_id,))), None)

    def _select(self, where: str, values: tuple[object, ...]) -> list[DrivenRun]:
        """What can be read of them: a row that cannot holds up no other run."""
        rows = self._database.read(
            f"SELECT run_id, request, behalf, stop_cause, abort, over FROM driven WHERE {where}",
            values,
        )
        found: list[DrivenRun] = []
        for run_id, *row in rows:
            try:
                found.append(self._driven(str(run_id), row))
            except MeshError as error:
                log.warning("what is driven of run %s cannot be read: %s", run_id, error)
        return found

    def _driven(self, run_id: str, row: Sequence[object]) -> DrivenRun:
        request, behalf, stop_cause, abort, over = row
        assert isinstance(request, bytes)
        jobs = driven_jobs.read(self._database, RunId(run_id))
        record, _, epoch = unpack_drive(request)
        record = replace(record, jobs=jobs.told)
        cause = None if stop_cause is None else str(stop_cause)
        asker = behalf_of_text(str(behalf or ""))
        return DrivenRun(record, jobs.driven, epoch, asker, cause, bool(abort), bool(over))


def _packed(record: RunRecord, epoch: int = 0) -> bytes:
    """A run without its jobs."""
    return pack_drive(replace(record, jobs=()), (), epoch)
