"""What the agent must remember of jobs: specifications, states, artifacts, ends. Never a secret.

`kill -9` anywhere leaves whole facts. A job is accepted and ended durably; states between are as
safe as the process. All reads answer at once from the last commit; all writes are awaited.
"""

import json
import sqlite3
from collections.abc import Sequence

from dstack_agent.database import Database
from dstack_agent.jobs.event import StopAsked
from dstack_agent.named import MEANT, Named
from dstack_agent.touched import Touched
from dstack_agent.wire import stored
from dstack_mesh.faults import Missing
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_mesh.signing import Signed
from dstack_scheduler.job import NOTHING, ArtifactSaved, Fin, JobKey, JobSpec, StateChange

_OF_KEY = "run_id = ? AND job = ? AND attempt = ?"


@frozen
class Given:
    """Who gave a job, as the connection proved it, and the epoch of that driver.

    Attributes:
        peer: Empty for the owner of this home.
        behind: For whom that peer says it asked; empty for itself.
    """

    peer: PeerId = PeerId("")
    epoch: int = 0
    behind: PeerId = PeerId("")

    @property
    def submitter(self) -> PeerId:
        """Whose a job is where people are kept apart: what one peer says of another is its word,
        so it makes a person of its own and nobody else's."""
        return PeerId(f"{self.peer}/{self.behind}") if self.behind else self.peer


@frozen
class Accepted:
    """A job that this agent has or had.

    Attributes:
        order: What was asked for, if anything.
        launching: Whether a shim may have been started.
        fin: The last word; None while it goes on.
        given: None for a job of before that was written down.
        vouched: The submitter's signature; None while there is none.
        reuse_key: What its result may stand in for; empty for nothing.
    """

    spec: JobSpec
    gpu_uuids: tuple[str, ...]
    order: StopAsked | None
    launching: bool
    fin: Fin | None
    given: Given | None = None
    vouched: Signed | None = None
    reuse_key: Digest = NOTHING

    @property
    def key(self) -> JobKey:
        return self.spec.key


def _values(key: JobKey) -> tuple[str, int, int]:
    return key.run_id, key.job, key.attempt


class Records:
    """Jobs of this agent. `touched` and `unsigned` hear which runs change."""

    def __init__(
        self,
        database: Database,
        touched: Touched | None = None,
        unsigned: Touched | None = None,
    ) -> None:
        self._database = database
        self._touched = touched or Touched()
        self._unsigned = unsigned or Touched()

    async def accept(
        self, spec: JobSpec, gpu_uuids: tuple[str, ...], given: Given | None = None
    ) -> bool:
        """Writes a new job down durably; False if it was known already."""
        given = given or Given()
        row = (*_values(spec.key), spec.run_name, stored.pack_spec(spec), ",".join(gpu_uuids))
        row = (*row, given.peer, given.epoch, given.behind)

        def change(connection: sqlite3.Connection) -> bool:
            inserted = connection.execute(
                "INSERT OR IGNORE INTO job"
                " (run_id, job, attempt, run_name, spec, gpu_uuids, given_by, epoch, given_for)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            return inserted.rowcount == 1

        new = await self._database.write(change, durable=True)
        self._changed(spec.key.run_id)
        return new

    async def vouch(self, run_id: RunId, job: int, signed: Signed) -> None:
        """Writes the submitter's signature down durably, beside each attempt at the job."""
        row = (stored.pack_signed(signed), run_id, job)
        await self._database.write(
            lambda db: db.execute("UPDATE job SET vouched = ? WHERE run_id = ? AND job = ?", row),
            durable=True,
        )
        self._changed(run_id)

    async def sign(self, key: JobKey, after: int, events: Sequence[Signed], last: bool) -> None:
        """Writes signed events down that follow those up to a number.

        Args:
            last: Whether the last word is among them: other agents are told then.
        """
        rows = [
            (*_values(key), after + number, int(last), each.body, each.key, each.signature)
            for number, each in enumerate(events, start=1)
        ]
        await self._database.write(
            lambda db: db.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        )
        if last:
            self._touched.run(key.run_id)

    def _changed(self, run_id: RunId) -> None:
        self._touched.run(run_id)
        self._unsigned.run(run_id)

    async def order_stop(self, key: JobKey, order: StopAsked) -> None:
        """Writes down durably that somebody wants an end; an abort is never softened.

        A grace is not written down: it belongs to this moment.
        """
        abort = int(order.abort)
        await self._update(
            key,
            "stop_reason = CASE WHEN stop_cause IS NULL OR ? > abort THEN ? ELSE stop_reason END,"
            " stop_cause = CASE WHEN stop_cause IS NULL OR ? > abort THEN ? ELSE stop_cause END,"
            " abort = max(abort, ?)",
            (*(abort, order.reason), *(abort, order.cause), abort),
            durable=True,
        )

    async def give_up(self, run_id: RunId, job: int | None) -> None:
        """Writes down that jobs that ended are not tried again; all of the run without `job`."""
        row = (run_id, job, job)
        await self._database.write(
            lambda db: db.execute(
                "UPDATE job SET stop_reason = 'stopped', stop_cause = coalesce(stop_cause, '')"
                " WHERE run_id = ? AND (? IS NULL OR job = ?) AND fin IS NOT NULL",
                row,
            )
        )
        self._touched.run(run_id)

    async def launching(self, key: JobKey) -> None:
        """Writes down, before it happens, that a shim is started."""
        await self._update(key, "launching = 1", ())

    async def _update(
        self, key: JobKey, assignment: str, values: tuple[object, ...], durable: bool = False
    ) -> None:
        row = (*values, *_values(key))
        await self._database.write(
            lambda db: db.execute(f"UPDATE job SET {assignment} WHERE {_OF_KEY}", row), durable
        )

    async def enter(self, change: StateChange) -> None:
        """Writes a state down."""
        row = (*_values(change.key), stored.pack_state(change))
        await self._database.write(lambda db: _insert_state(db, row))
        self._changed(change.key.run_id)

    async def save_artifact(self, artifact: ArtifactSaved) -> None:
        """Writes down that this is the newest version of an artifact."""
        await self.save_artifacts([artifact])

    async def save_artifacts(self, artifacts: Sequence[ArtifactSaved]) -> None:
        """The same for several, all at once or none."""
        rows = [(*_values(each.key), each.path, stored.pack_artifact(each)) for each in artifacts]
        await self._database.write(
            lambda db: db.executemany(
                "INSERT OR REPLACE INTO artifact VALUES (?, ?, ?, ?, ?)", rows
            )
        )
        for run_id in {each.key.run_id for each in artifacts}:
            self._changed(run_id)

    async def forget_artifacts(self, key: JobKey) -> None:
        """Takes back what was saved of an attempt that was aborted."""
        row = _values(key)
        await self._database.write(
            lambda db: db.execute(f"DELETE FROM artifact WHERE {_OF_KEY}", row)
        )
        self._changed(key.run_id)

    async def finish(self, fin: Fin, reuse_key: Digest = NOTHING) -> None:
        """Writes the last state and the last word down, durably and together.

        Args:
            reuse_key: What the result may stand in for.
        """
        state = (*_values(fin.key), stored.pack_state(fin.state))
        row = (stored.pack_fin(fin), fin.state.at.timestamp(), reuse_key or None)
        row = (*row, *_values(fin.key))

        def change(connection: sqlite3.Connection) -> None:
            _insert_state(connection, state)
            connection.execute(
                f"UPDATE job SET fin = ?, ended_at = ?, reuse_key = ? WHERE {_OF_KEY}", row
            )

        await self._database.write(change, durable=True)
        self._changed(fin.key.run_id)

    async def forget(self, run_id: RunId) -> None:
        """Removes all that is written down of a run."""
        tables = ("job", "state", "artifact", "event")

        def change(connection: sqlite3.Connection) -> None:
            for table in tables:
                connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))

        await self._database.write(change)
        self._touched.run(run_id)

    def find(self, key: JobKey) -> Accepted:
        """A job; attempt 0 is the newest one known here. Raises Missing."""
        rows = self._database.read(
            f"SELECT {_COLUMNS} FROM job WHERE run_id = ? AND job = ? AND attempt >= ?"
            " ORDER BY attempt DESC",
            (key.run_id, key.job, key.attempt),
        )
        found = [_accepted(row) for row in rows]
        for job in found:
            if key.attempt in (0, job.key.attempt):
                return job
        raise Missing(
            "This agent knows no such job.",
            f"It was asked for job {key.job}, attempt {key.attempt} of run {key.run_id}.",
            code="no-such-job",
        )

    def events(self, key: JobKey) -> tuple[Signed, ...]:
        """What was signed of an attempt, in order."""
        rows = self._database.read(
            f"SELECT body, key, signature FROM event WHERE {_OF_KEY} ORDER BY seq", _values(key)
        )
        return tuple(Signed(_blob(body), _blob(by), _blob(sign)) for body, by, sign in rows)

    def is_sealed(self, key: JobKey) -> bool:
        """Whether the last word on an attempt is signed."""
        rows = self._database.read(
            f"SELECT 1 FROM event WHERE {_OF_KEY} AND last LIMIT 1", _values(key)
        )
        return bool(rows)

    def unsigned(self) -> list[RunId]:
        """Runs of which something may not be signed yet: whose last word is not."""
        rows = self._database.read(
            "SELECT DISTINCT run_id FROM job WHERE given_by IS NOT NULL AND NOT EXISTS ("
            "SELECT 1 FROM event WHERE event.run_id = job.run_id AND event.job = job.job"
            " AND event.attempt = job.attempt AND event.last)"
        )
        return [RunId(str(row[0])) for row in rows]

    def unfinished(self) -> list[Accepted]:
        """Jobs without a last word."""
        return [
            _accepted(row)
            for row in self._database.read(f"SELECT {_COLUMNS} FROM job WHERE fin IS NULL")
        ]

    def keys(self) -> set[JobKey]:
        """Every job that was ever accepted here."""
        rows = self._database.read("SELECT run_id, job, attempt FROM job")
        return {JobKey(RunId(str(run)), int(str(job)), int(str(nth))) for run, job, nth in rows}

    def ended(self) -> set[JobKey]:
        """Every job here that ended."""
        rows = self._database.read(
            "SELECT run_id, job, attempt FROM job WHERE ended_at IS NOT NULL"
        )
        return {JobKey(RunId(str(run)), int(str(job)), int(str(nth))) for run, job, nth in rows}

    def bare(self) -> list[tuple[RunId, float, int]]:
        """Runs that ended here and kept nothing: when, and how many attempts; newest end first."""
        rows = self._database.read(
            "SELECT run_id, max(ended_at) AS at, count(*) FROM job INDEXED BY job_ended"
            " GROUP BY run_id HAVING count(*) = count(ended_at) AND NOT EXISTS"
            " (SELECT 1 FROM artifact WHERE artifact.run_id = job.run_id) ORDER BY at DESC"
        )
        return [(RunId(str(run)), float(str(at)), int(str(many))) for run, at, many in rows]

    def of_run(self, run_id: RunId) -> list[Accepted]:
        """All attempts of a run, by job and attempt."""
        rows = self._database.read(
            f"SELECT {_COLUMNS} FROM job WHERE run_id = ? ORDER BY job, attempt", (run_id,)
        )
        return [_accepted(row) for row in rows]

    def run_ids(self, names: tuple[str, ...] = (), most: int = -1) -> list[RunId]:
        """Runs, newest first and at most so many.

        All, or those whose id or beginning of a name is among `names`.
        """
        where = f" WHERE {MEANT.format(table='job')}" if names else ""
        values = Named.of(names).values if names else ()
        rows = self._database.read(
            f"SELECT DISTINCT run_id FROM job{where} ORDER BY run_id DESC LIMIT ?",
            [*values, most],
        )
        return [RunId(str(row[0])) for row in rows]

    def reusable(self, keys: Sequence[Digest], most: int) -> list[RunId]:
        """Runs that have jobs with one of the reuse keys, newest first and at most so many."""
        rows = self._database.read(
            f"SELECT DISTINCT run_id FROM job WHERE reuse_key IN ({', '.join('?' * len(keys))})"
            " ORDER BY run_id DESC LIMIT ?",
            [*keys, most],
        )
        return [RunId(str(row[0])) for row in rows]

    def among(self, run_ids: Sequence[RunId]) -> list[RunId]:
        """Those of the runs that are known here."""
        rows = self._database.read(
            "SELECT DISTINCT run_id FROM job WHERE run_id IN (SELECT value FROM json_each(?))",
            [json.dumps(run_ids)],
        )
        return [RunId(str(row[0])) for row in rows]

    def history(self, key: JobKey) -> list[StateChange]:
        """States of an attempt, oldest first."""
        rows = self._database.read(
            f"SELECT change FROM state WHERE {_OF_KEY} ORDER BY seq", _values(key)
        )
        return [stored.unpack_state(_blob(row[0])) for row in rows]

    def artifacts(self, key: JobKey) -> list[ArtifactSaved]:
        """Newest versions of an attempt's artifacts."""
        rows = self._database.read(
            f"SELECT saved FROM artifact WHERE {_OF_KEY} ORDER BY path", _values(key)
        )
        return [stored.unpack_artifact(_blob(row[0])) for row in rows]


_COLUMNS = (
    "spec, gpu_uuids, stop_cause, stop_reason, abort, launching, fin, given_by, epoch, vouched,"
    " reuse_key, given_for"
)


def _insert_state(connection: sqlite3.Connection, row: tuple[object, ...]) -> None:
    connection.execute("INSERT INTO state (run_id, job, attempt, change) VALUES (?, ?, ?, ?)", row)


def _blob(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _accepted(row: tuple[object, ...]) -> Accepted:
    spec, gpu_uuids, stop_cause, stop_reason, abort, launching, fin, given_by, epoch, *rest = row
    vouched, reuse_key, given_for = rest
    cause, reason = str(stop_cause), str(stop_reason or "")
    return Accepted(
        spec=stored.unpack_spec(_blob(spec)),
        gpu_uuids=tuple(each for each in str(gpu_uuids).split(",") if each),
        order=None if stop_cause is None else StopAsked(bool(abort), cause, reason),
        launching=bool(launching),
        fin=None if fin is None else stored.unpack_fin(_blob(fin)),
        given=None
        if given_by is None
        else Given(PeerId(str(given_by)), int(str(epoch)), PeerId(str(given_for or ""))),
        vouched=None if vouched is None else stored.unpack_signed(_blob(vouched)),
        reuse_key=NOTHING if reuse_key is None else Digest(_blob(reuse_key)),
    )
