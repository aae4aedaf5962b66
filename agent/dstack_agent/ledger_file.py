"""The file below the ledger: one SQLite database, one durable transaction at a time.

WAL with `synchronous=FULL`: what a method of the ledger returned survives a loss of power. Threads
of one process take turns by a lock, processes by SQLite's own.
"""

import fcntl
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from dstack_mesh.faults import Broken, Busy, Damaged, MeshError, Refused

SCHEMA_VERSION = 1

BUSY_SECONDS = 10.0
"""How long a transaction waits for one of another process."""

_SCHEMA = """
CREATE TABLE holds (
    hold_id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL, job INTEGER NOT NULL, attempt INTEGER NOT NULL,
    epoch INTEGER NOT NULL, run_name TEXT NOT NULL, owner TEXT NOT NULL, peer TEXT NOT NULL,
    behind TEXT NOT NULL,
    executor TEXT NOT NULL, needs TEXT NOT NULL,
    boot_id TEXT NOT NULL, expires_at REAL NOT NULL,
    UNIQUE (run_id, job, attempt)
) STRICT;
CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    hold_id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL, job INTEGER NOT NULL, attempt INTEGER NOT NULL,
    epoch INTEGER NOT NULL, run_name TEXT NOT NULL, owner TEXT NOT NULL, peer TEXT NOT NULL,
    behind TEXT NOT NULL,
    executor TEXT NOT NULL, needs TEXT NOT NULL,
    spec_digest BLOB NOT NULL, ended INTEGER NOT NULL DEFAULT 0,
    UNIQUE (run_id, job, attempt)
) STRICT;
CREATE INDEX leases_running ON leases (id) WHERE ended = 0;
CREATE TABLE cards (
    uuid TEXT PRIMARY KEY,
    hold_id TEXT NOT NULL,
    place INTEGER NOT NULL
) STRICT;
CREATE INDEX cards_of ON cards (hold_id);
CREATE TABLE epochs (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL, job INTEGER NOT NULL, epoch INTEGER NOT NULL,
    UNIQUE (run_id, job)
) STRICT;
"""


class LedgerFile:
    """An open database with the ledger's tables. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = RLock()
        with self._translated(), self._alone():
            self._db = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except (sqlite3.Error, MeshError):
                self._db.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """One transaction: everything within happens, durably, or nothing does."""
        with self._lock, self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # On a full disk SQLite did it itself, and what it says of a second one is no news.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Keeps other processes from opening the file meanwhile.

        SQLite does not wait its turn to switch a new file to WAL: it fails.
        """
        with self._path.with_name(f"{self._path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _prepare(self) -> None:
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        with self.transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise Refused(
                    f"{self._path} was written by a newer version of this software.",
                    f"Its format is {version}; this version knows {SCHEMA_VERSION}.",
                    "update dstack-mesh on this machine",
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise _trouble(self._path, error) from error
        except OSError as error:
            raise _unusable(self._path, str(error)) from error
        except sqlite3.IntegrityError as error:
            raise Broken("The ledger refused an impossible state.", f"SQLite: {error}.") from error
        except sqlite3.DatabaseError as error:
            hint = f"move {self._path} away and start the agent again"
            raise Damaged(f"{self._path} is damaged.", f"SQLite: {error}.", hint) from error


def _trouble(path: Path, error: sqlite3.OperationalError) -> MeshError:
    why = f"SQLite: {error}."
    match error.sqlite_errorcode & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Busy(f"{path} is in use by another process.", why)
        case sqlite3.SQLITE_FULL:
            return Refused(f"{path} cannot be written.", why, "free some disk", "disk-full")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_IOERR:
            return _unusable(path, why)
        case _:
            return Broken(f"{path} cannot be used.", why)


def _unusable(path: Path, why: str) -> Refused:
    return Refused(f"{path} cannot be used.", why, f"check the permissions of {path.parent}")
