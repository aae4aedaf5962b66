"""Who has what of this machine: the single owner of its cards.

- A *hold* is for a job that may come. It ends by itself after `HOLD_SECONDS` unless it is renewed
  by reserving again, and at a boot. A *lease* is for a job that runs; it lasts until the job ended.
- Every method is one durable transaction. A card is in one hold or lease or in none: the primary
  key of the table of cards says so too.
- Everything is idempotent by (run, job, attempt). Reserving again renews the same hold; committing
  again with the same specification changes nothing, with another one it is a conflict.
- Fencing: per (run, job), an epoch lower than one seen before is refused. One is seen once the job
  got a hold here; from then on whatever becomes of the call that shows it. Whoever asks may: whose
  a run is was looked at before.

Time is that of `Clock.elapsed`, which counts sleep and starts anew at boot.
"""

import json
import sqlite3
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from dstack_agent.bell import Bell
from dstack_agent.lease import Award, Claim, Forbade, Lease, NotFree
from dstack_agent.ledger_file import LedgerFile
from dstack_agent.ledger_rows import (
    KEY,
    cards_of,
    drop_holds,
    find_lease,
    forget_oldest,
    insert,
    key_values,
    lease_row,
    needs_of,
    read_lease,
    read_taken,
    seat,
)
from dstack_mesh.clock import Clock
from dstack_mesh.faults import Busy, Conflict, Invalid, MeshError, Missing
from dstack_mesh.ids import HoldId, RunId
from dstack_mesh.machine import Gpu
from dstack_scheduler.agent_port import Hold
from dstack_scheduler.fit import Taken
from dstack_scheduler.job import JobKey
from dstack_scheduler.verdict import Later, Never, NotNow, Now, Verdict

HOLD_SECONDS = 15.0
"""How long a hold lasts: a card of a driver that died is free again after it."""

MAX_HOLDS_PER_PEER = 4
"""Live holds of one peer on this agent, so that nobody hoards."""

MAX_EPOCH = 2**62
"""Above it an epoch is refused: it would fence everybody else out for ever."""


class Ledger:
    """Holds and leases of one agent, in one file. Thread-safe; processes may share the file.

    Args:
        path: The database; made if it is not there.
        clock: Where time comes from.
        boot_id: Names the boot that `clock` counts from; holds of another boot are void.
    """

    def __init__(self, path: Path, clock: Clock, boot_id: str | None = None) -> None:
        self._clock = clock
        self._boot_id = _boot_id() if boot_id is None else boot_id
        self._file = LedgerFile(path)
        self.changes = Bell()
        """Rings when something became free or was taken by this process."""

    def close(self) -> None:
        self._file.close()

    def reserve(self, claim: Claim, decide: Callable[[tuple[Taken, ...]], Verdict]) -> Hold:
        """Holds what the job needs, or renews the job's hold.

        Args:
            claim: What and for whom.
            decide: The verdict, given what is taken; called within the transaction, must be pure.

        Raises:
            NotFree: The verdict was not "now".
            Busy: The peer has too many holds.
            Conflict: A higher epoch was seen, another peer holds for the job, or this attempt ended
                here already.
        """
        with self._changing() as db:
            self._fence(db, claim)
            lease = find_lease(db, claim.key)
            if lease is not None:
                return _as_hold(lease, claim)
            hold = db.execute(f"SELECT * FROM holds WHERE {KEY}", key_values(claim.key)).fetchone()
            if hold is not None:
                _check_holder(hold, claim)
                if needs_of(hold) == claim.needs:
                    return self._renew(db, hold, claim)
            return self._hold(db, claim, decide, hold)

    def commit(
        self, award: Award, decide: Callable[[tuple[Taken, ...]], Verdict] = lambda taken: Now()
    ) -> Lease:
        """Turns a hold into a lease; repeated, returns the lease as it is.

        Args:
            award: What and for whom.
            decide: As for `reserve`. What the hold is for counts as free, and the lease has the
                cards that are named now, or those of the hold if none are; one that is there
                stays whatever would be said now.

        Raises:
            Missing: The hold expired, was released or never was.
            Conflict: A higher epoch was seen, or the hold was for something else.
            NotFree: The verdict was "later" or "not now".
            Forbade: The verdict was "never".
        """
        with self._changing() as db:
            self._fence(db, award)
            lease = find_lease(db, award.key)
            if lease is not None:
                return _repeated(lease, award)
            hold = db.execute("SELECT * FROM holds WHERE hold_id = ?", (award.hold_id,)).fetchone()
            if hold is None:
                raise Missing(
                    "The hold is gone.",
                    f"Holds end after {HOLD_SECONDS:.0f} seconds unless they are renewed.",
                    "ask and reserve again",
                    "hold-expired",
                )
            _check_award(hold, award)
            verdict = _checked(decide(read_taken(db)))
            if verdict.gpu_uuids:  # one that was held may have gone to a stranger meanwhile
                seat(db, award.hold_id, verdict.gpu_uuids)
            insert(db, "leases", lease_row(hold, award))
            db.execute("DELETE FROM holds WHERE hold_id = ?", (award.hold_id,))
            row = db.execute(f"SELECT * FROM leases WHERE {KEY}", key_values(award.key)).fetchone()
            return read_lease(db, row)

    def release(self, hold_id: HoldId) -> None:
        """Gives a hold back. What is not held, or is leased by now, stays as it is."""
        with self._changing() as db:
            drop_holds(db, "hold_id = ?", (hold_id,))

    def end(self, key: JobKey) -> None:
        """Ends a lease: its job is over. Idempotent."""
        with self._changing() as db:
            row = db.execute(f"SELECT hold_id FROM leases WHERE {KEY}", key_values(key)).fetchone()
            if row is not None:
                db.execute("DELETE FROM cards WHERE hold_id = ?", (row["hold_id"],))
                db.execute("UPDATE leases SET ended = 1 WHERE hold_id = ?", (row["hold_id"],))
                forget_oldest(db)

    def withdraw(self, key: JobKey) -> None:
        """Undoes a commit whose job never began, as if the hold had expired. Idempotent."""
        with self._changing() as db:
            row = db.execute(f"SELECT hold_id FROM leases WHERE {KEY}", key_values(key)).fetchone()
            if row is not None:
                db.execute("DELETE FROM cards WHERE hold_id = ?", (row["hold_id"],))
                db.execute("DELETE FROM leases WHERE hold_id = ?", (row["hold_id"],))

    def expire(self) -> float | None:
        """Drops holds whose time is over; returns the seconds until the next one ends."""
        with self._changing() as db:
            (next_end,) = db.execute("SELECT min(expires_at) FROM holds").fetchone()
        return None if next_end is None else max(0.0, next_end - self._clock.elapsed())

    def taken(self) -> tuple[Taken, ...]:
        """All live holds and running leases."""
        with self._changing() as db:
            return read_taken(db)

    def leases(self) -> tuple[Lease, ...]:
        """The leases of jobs that have not ended, oldest first."""
        with self._file.transaction() as db:
            rows = db.execute("SELECT * FROM leases WHERE ended = 0 ORDER BY id").fetchall()
            return tuple(read_lease(db, row) for row in rows)

    def free(self, gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
        """Those of the cards that nobody has."""
        taken = {uuid for each in self.taken() for uuid in each.gpu_uuids}
        return tuple(gpu for gpu in gpus if gpu.free and gpu.uuid not in taken)

    @contextmanager
    def _changing(self) -> Generator[sqlite3.Connection]:
        """A transaction that begins by dropping what expired, and tells if it changed anything.

        A refusal within comes before any change of its own, so what was learnt until then (what
        expired, a higher epoch) is kept.
        """
        refusal: MeshError | None = None
        with self._file.transaction() as db:
            before = db.total_changes
            now = self._clock.elapsed()
            drop_holds(
                db,
                "boot_id <> ? OR expires_at <= ? OR expires_at > ?",
                (self._boot_id, now, now + HOLD_SECONDS),
            )
            try:
                yield db
            except MeshError as error:
                refusal = error
            changed = db.total_changes > before
        if changed:
            self.changes.ring()
        if refusal is not None:
            raise refusal

    def _fence(self, db: sqlite3.Connection, asked: Claim | Award) -> None:
        """Lets no earlier driver pass; the epoch is seen from now on, where one is known.

        Only there: otherwise whoever is refused could fill the disk with them.
        """
        epoch, where = asked.epoch, (asked.key.run_id, asked.key.job)
        if not 0 <= epoch <= MAX_EPOCH:
            raise Invalid("The epoch is out of range.", f"It is {epoch}.")
        row = db.execute("SELECT epoch FROM epochs WHERE run_id = ? AND job = ?", where).fetchone()
        if row is not None and row["epoch"] > epoch:
            raise Conflict(
                "Another driver has taken the run over.",
                f"Its epoch is {row['epoch']}, that of this call {epoch}.",
                code="epoch",
            )
        if row is not None and row["epoch"] < epoch:
            _see(db, asked)

    def _renew(self, db: sqlite3.Connection, hold: sqlite3.Row, claim: Claim) -> Hold:
        db.execute(
            "UPDATE holds SET expires_at = ?, epoch = ?, executor = ?, peer = ?, behind = ?,"
            " owner = ? WHERE hold_id = ?",
            (
                self._clock.elapsed() + HOLD_SECONDS,
                claim.epoch,
                claim.executor.value,
                claim.peer,
                claim.behind,
                claim.owner,
                hold["hold_id"],
            ),
        )
        return Hold(HoldId(hold["hold_id"]), HOLD_SECONDS, cards_of(db, hold["hold_id"]))

    def _hold(
        self,
        db: sqlite3.Connection,
        claim: Claim,
        decide: Callable[[tuple[Taken, ...]], Verdict],
        former: sqlite3.Row | None,
    ) -> Hold:
        verdict = decide(read_taken(db))
        if not isinstance(verdict, Now):
            raise NotFree(verdict.reasons)
        hold_id = HoldId(uuid.uuid4().hex if former is None else former["hold_id"])
        _check_hoarding(db, claim, hold_id)
        drop_holds(db, "hold_id = ?", (hold_id,))
        insert(db, "holds", self._hold_row(hold_id, claim))
        seat(db, hold_id, verdict.gpu_uuids)
        _see(db, claim)
        return Hold(hold_id, HOLD_SECONDS, verdict.gpu_uuids)

    def _hold_row(self, hold_id: HoldId, claim: Claim) -> dict[str, object]:
        return {
            "hold_id": hold_id,
            "run_id": claim.key.run_id,
            "job": claim.key.job,
            "attempt": claim.key.attempt,
            "epoch": claim.epoch,
            "run_name": claim.run_name,
            "owner": claim.owner,
            "peer": claim.peer,
            "behind": claim.behind,
            "executor": claim.executor.value,
            "needs": json.dumps(asdict(claim.needs)),
            "boot_id": self._boot_id,
            "expires_at": self._clock.elapsed() + HOLD_SECONDS,
        }


def _see(db: sqlite3.Connection, asked: Claim | Award) -> None:
    """Remembers an epoch, which is no lower than one seen before."""
    db.execute(
        "INSERT INTO epochs (run_id, job, epoch) VALUES (?, ?, ?)"
        " ON CONFLICT (run_id, job) DO UPDATE SET epoch = excluded.epoch",
        (asked.key.run_id, asked.key.job, asked.epoch),
    )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Without a name for the boot, holds of an earlier process are never trusted.
        return uuid.uuid4().hex


def _check_holder(hold: sqlite3.Row, claim: Claim) -> None:
    """A hold's id is its holder's secret: only a driver that took the run over is told it."""
    if hold["peer"] != claim.peer and claim.epoch <= hold["epoch"]:
        raise Conflict(
            "Another peer holds for this job.",
            f"Its epoch is {hold['epoch']}, that of this call {claim.epoch}.",
            code="held-by-another",
        )


def _check_hoarding(db: sqlite3.Connection, claim: Claim, but: HoldId) -> None:
    where = "peer = ? AND hold_id <> ?"
    row = db.execute(f"SELECT count(*) FROM holds WHERE {where}", (claim.peer, but)).fetchone()
    if row[0] >= MAX_HOLDS_PER_PEER:
        raise Busy(
            "This peer holds too much here.",
            f"It has {row[0]} holds of at most {MAX_HOLDS_PER_PEER}.",
            code="too-many-holds",
        )


def _as_hold(lease: Lease, claim: Claim) -> Hold:
    """The hold behind a lease, for a driver that did not hear that its commit succeeded."""
    if lease.ended:
        raise Conflict(
            f"Attempt {lease.key.attempt} of the job has ended on this agent already.",
            hint="look at how it ended, or make a new attempt",
            code="attempt-ended",
        )
    if (lease.needs, lease.executor) != (claim.needs, claim.executor):
        raise _otherwise(lease)
    return Hold(lease.hold_id, HOLD_SECONDS, lease.gpu_uuids)


def _repeated(lease: Lease, award: Award) -> Lease:
    leased = (lease.hold_id, lease.spec_digest, lease.needs, lease.executor)
    if leased != (award.hold_id, award.spec_digest, award.needs, award.executor):
        raise _otherwise(lease)
    return lease


def _otherwise(lease: Lease) -> Conflict:
    return Conflict(
        f"Attempt {lease.key.attempt} of the job was awarded here with another specification.",
        f"It has needed {lease.needs} since.",
        code="awarded-otherwise",
    )


def _checked(verdict: Verdict) -> Now:
    match verdict:
        case Now():
            return verdict
        case Never(reasons):
            raise Forbade(reasons)
        case Later(reasons) | NotNow(reasons):
            raise NotFree(reasons)


def _check_award(hold: sqlite3.Row, award: Award) -> None:
    held = JobKey(RunId(hold["run_id"]), hold["job"], hold["attempt"])
    if held != award.key:
        raise Conflict("The hold is for another job.", f"It is for {held}.", code="other-job")
    if needs_of(hold) != award.needs or hold["executor"] != award.executor.value:
        raise Conflict(
            "The job needs something else than was held.",
            f"Held: {needs_of(hold)}; needed: {award.needs}.",
            "reserve again with what the job needs",
            "other-needs",
        )
