"""The agent's database: one file, one thread that writes, readers that never wait for it.

A write is awaited. `durable` ones survive power loss (the log is synced before the answer), others
survive `kill -9`. Reads happen in the event loop's own thread on a second connection: in WAL mode a
reader sees the last commit and never blocks.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from dstack_mesh.faults import Refused

T = TypeVar("T")

VERSION = 1

SCHEMA = """
CREATE TABLE job (
    run_id TEXT NOT NULL, job INTEGER NOT NULL, attempt INTEGER NOT NULL,
    run_name TEXT NOT NULL, spec BLOB NOT NULL, gpu_uuids TEXT NOT NULL,
    stop_cause TEXT, abort INTEGER NOT NULL DEFAULT 0, launching INTEGER NOT NULL DEFAULT 0,
    fin BLOB,
    PRIMARY KEY (run_id, job, attempt)
) WITHOUT ROWID;
CREATE INDEX unfinished ON job (run_id) WHERE fin IS NULL;
CREATE TABLE state (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL, job INTEGER NOT NULL, attempt INTEGER NOT NULL, change BLOB NOT NULL
);
CREATE INDEX state_of ON state (run_id, job, attempt, seq);
CREATE TABLE artifact (
    run_id TEXT NOT NULL, job INTEGER NOT NULL, attempt INTEGER NOT NULL, path TEXT NOT NULL,
    saved BLOB NOT NULL,
    PRIMARY KEY (run_id, job, attempt, path)
) WITHOUT ROWID;
CREATE TABLE driven (
    run_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, request BLOB NOT NULL,
    stop_cause TEXT, abort INTEGER NOT NULL DEFAULT 0, over INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE tag (
    repo TEXT NOT NULL, tag TEXT NOT NULL, at TEXT NOT NULL, run_id TEXT NOT NULL,
    statement BLOB NOT NULL,
    PRIMARY KEY (repo, tag)
) WITHOUT ROWID;
"""

ADDED = (
    ("job", "stop_reason", "TEXT"),
    ("driven", "behalf", "TEXT"),
    ("job", "given_by", "TEXT"),
    ("job", "epoch", "INTEGER"),
    ("job", "vouched", "BLOB"),
    ("tag", "given_by", "TEXT"),
    ("job", "given_for", "TEXT"),
    ("driven", "run_name", "TEXT"),
    ("job", "reuse_key", "BLOB"),
    ("job", "ended_at", "REAL"),
)
"""Columns that came later. An older version neither reads nor needs them, so the version stays."""

ADDED_TABLES = """
CREATE TABLE IF NOT EXISTS event (
    run_id TEXT NOT NULL, job INTEGER NOT NULL, attempt INTEGER NOT NULL, seq INTEGER NOT NULL,
    last INTEGER NOT NULL, body BLOB NOT NULL, key BLOB NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (run_id, job, attempt, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rival_tag (
    repo TEXT NOT NULL, tag TEXT NOT NULL, run_id TEXT NOT NULL, at TEXT NOT NULL,
    statement BLOB NOT NULL,
    PRIMARY KEY (repo, tag, run_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS driven_over ON driven (over, run_id);
CREATE TABLE IF NOT EXISTS driven_job (
    run_id TEXT NOT NULL, job INTEGER NOT NULL, driven BLOB, told BLOB,
    PRIMARY KEY (run_id, job)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removal (
    run_id TEXT PRIMARY KEY, at TEXT NOT NULL, checked INTEGER NOT NULL, statement BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cache (
    peer TEXT NOT NULL, repo TEXT NOT NULL, workflow TEXT NOT NULL, path TEXT NOT NULL,
    digest BLOB NOT NULL, size_bytes INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (peer, repo, workflow, path)
) WITHOUT ROWID;
"""
"""Likewise."""


ADDED_INDEXES = """
CREATE INDEX IF NOT EXISTS job_reuse ON job (reuse_key) WHERE reuse_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS job_name ON job (run_name);
CREATE INDEX IF NOT EXISTS driven_name ON driven (run_name);
CREATE INDEX IF NOT EXISTS job_ended ON job (ended_at);
UPDATE job SET ended_at = strftime('%s', 'now') WHERE ended_at IS NULL AND fin IS NOT NULL;
"""
"""Likewise, of columns that came later; jobs that ended before it was noted end now."""


class Database:
    """An open database. Made and closed in the event loop's thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._writing = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path)
        except BaseException:
            self._writing.close()
            self._writer.shutdown()
            raise
        self._reading = sqlite3.connect(path, isolation_level=None)
        self._reading.execute("PRAGMA query_only=ON")

    def _prepare(self, path: Path) -> None:
        self._writing.execute("PRAGMA journal_mode=WAL")
        (version,) = self._writing.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise Refused(
                "The agent's records were written by a newer version.",
                f"{path} has format {version}; this version knows {VERSION}.",
                "Install the newer version again, or use another --home.",
                "newer-records",
            )
        if version == 0:
            self._writing.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
        self._writing.executescript(ADDED_TABLES)
        for table, column, kind in ADDED:
            columns = self._writing.execute(f"PRAGMA table_info({table})")
            if column not in [row[1] for row in columns]:
                self._writing.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        self._writing.executescript(ADDED_INDEXES)

    def read(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Rows of the last commit."""
        return self._reading.execute(query, tuple(values)).fetchall()

    async def write(self, change: Callable[[sqlite3.Connection], T], durable: bool = False) -> T:
        """Carries `change` out in one transaction, in the writer's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, self._transact, change, durable)

    def _transact(self, change: Callable[[sqlite3.Connection], T], durable: bool) -> T:
        connection = self._writing
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = change(connection)
            connection.execute("COMMIT")
        except BaseException:
            # On a full disk SQLite did it itself, and what it says of a second one is no news.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def close(self) -> None:
        """Waits for writes under way and closes."""
        self._writer.shutdown()
        self._reading.close()
        self._writing.close()
