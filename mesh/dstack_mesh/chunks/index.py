"""Which chunk lies where: one SQLite database beside the packs.

A row is committed, durably, only after the bytes it names are. Every process has connections of its
own.
"""

import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from dstack_mesh.chunks.packs import Place
from dstack_mesh.faults import Busy, Refused
from dstack_mesh.ids import Digest

BATCH = 500
"""Digests in one question."""

WAIT_SECONDS = 30.0
"""How long a writer waits for another process that writes."""

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS packs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS chunks (
    digest BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS damaged (
    digest BLOB NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, chunks BLOB NOT NULL,
    UNIQUE (device, inode)
);
"""


class Index:
    """The rows of one chunk store. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._reported():
            self._database = connect(path, "FULL")

    def locate(self, digests: Iterable[Digest]) -> dict[Digest, Place]:
        """Places of those that are here."""
        found: dict[Digest, Place] = {}
        with self._lock, self._reported():
            for batch in batches(digests, BATCH):
                rows = self._database.execute(
                    "SELECT c.digest, p.name, c.offset, c.length FROM chunks c, packs p"
                    f" WHERE p.id = c.pack AND c.digest IN ({marks(len(batch))})",
                    batch,
                )
                for digest, pack, offset, length in rows:
                    found[digest] = Place(pack, offset, length)
        return found

    def present(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those that are here."""
        few = self._few(len(digests))
        if few is not None:
            return few.intersection(digests)
        found: set[Digest] = set()
        with self._lock, self._reported():
            for batch in batches(digests, BATCH):
                rows = self._database.execute(
                    f"SELECT digest FROM chunks WHERE digest IN ({marks(len(batch))})", batch
                )
                found.update(digest for (digest,) in rows)
        return found

    def _few(self, limit: int) -> set[Digest] | None:
        """All digests, if they are no more than this: reading a row costs less than asking for
        it. None if they are more."""
        with self._lock, self._reported():
            rows = self._database.execute("SELECT digest FROM chunks LIMIT ?", (limit + 1,))
            found: set[Digest] = {digest for (digest,) in rows}
        return None if len(found) > limit else found

    def add(self, rows: Sequence[tuple[Digest, Place]]) -> None:
        """Writes rows down, durably. A digest that another writer added first keeps its place."""
        with self._lock, self._reported(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            ids = {name: self._pack_id(name) for name in {place.pack for _, place in rows}}
            self._database.executemany(
                "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)",
                sorted((digest, ids[at.pack], at.offset, at.length) for digest, at in rows),
            )

    def quarantine(self, digest: Digest) -> None:
        """Forgets a chunk whose bytes are wrong, keeping the evidence, so that it is missing
        again."""
        with self._lock, self._reported(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "INSERT INTO damaged SELECT * FROM chunks WHERE digest = ?", (digest,)
            )
            self._database.execute("DELETE FROM chunks WHERE digest = ?", (digest,))

    def close(self) -> None:
        """Lets go of the database."""
        with self._lock:
            self._database.close()

    def _pack_id(self, name: str) -> int:
        self._database.execute("INSERT OR IGNORE INTO packs (name) VALUES (?)", (name,))
        row = self._database.execute("SELECT id FROM packs WHERE name = ?", (name,)).fetchone()
        return int(row[0])

    @contextmanager
    def _reported(self) -> Generator[None]:
        with reported(self._path):
            yield


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """A connection to the database, which is made if it is not there.

    Raises:
        Refused: A newer version of the program has changed its form.
    """
    database = sqlite3.connect(
        path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    database.execute(f"PRAGMA synchronous = {synchronous}")
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version == 0:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(
            f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
        )
    elif version != SCHEMA_VERSION:
        database.close()
        raise Refused(
            f"The chunk store {path.parent} was written by a newer version.",
            f"Its form is {version}; this program knows {SCHEMA_VERSION}.",
            "Use the newer version, or another DSTACK_HOME.",
        )
    return database


@contextmanager
def reported(path: Path) -> Generator[None]:
    """Says SQLite's errors in words: a full disk or a long writer is `Busy`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise Busy(
                f"The disk of {path.parent} is full.",
                str(error),
                "Make room there, or move DSTACK_HOME to a larger disk.",
                code="disk-full",
            ) from error
        if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Busy(f"Another process is writing {path}.", str(error), "Try again.") from error
        raise Refused(
            f"The database {path} cannot be used.", str(error), "Check the disk and its rights."
        ) from error
    except sqlite3.DatabaseError as error:
        raise Refused(
            f"The database {path} is damaged.",
            str(error),
            f"Move {path.parent} aside; what it held can be fetched again from other peers.",
        ) from error


def batches(digests: Iterable[Digest], size: int) -> Iterator[list[Digest]]:
    """The digests in lists of at most `size`."""
    waiting = iter(digests)
    while batch := list(islice(waiting, size)):
        yield batch


def marks(count: int) -> str:
    """Place marks of a question."""
    return ",".join("?" * count)
