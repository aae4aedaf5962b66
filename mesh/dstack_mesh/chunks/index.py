"""Which chunk lies where: one SQLite database beside the packs.

A row is committed, durably, only after the bytes it names are. Every process has connections of its
own. A chunk that nothing refers to is condemned before it is swept; whoever is told meanwhile that
it is here spares it by asking.
"""

import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from dstack_mesh.chunks.packs import Place
from dstack_mesh.faults import Busy, MeshError, Refused
from dstack_mesh.ids import Digest

BATCH = 500
"""Digests in one question."""

MANY = 65_536
"""Digests that are best looked up together: more take some megabytes."""

WAIT_SECONDS = 30.0
"""How long a writer waits for another process that writes."""

SCHEMA_VERSION = 2

SCHEMA = """
CREATE TABLE IF NOT EXISTS packs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS chunks (
    digest BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL
) WITHOUT ROWID;
DROP TABLE IF EXISTS damaged;
CREATE TABLE IF NOT EXISTS quarantine (digest BLOB PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS condemned (digest BLOB PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (name TEXT PRIMARY KEY, at TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, chunks BLOB NOT NULL,
    UNIQUE (device, inode)
);
"""


ROWS = 50_000
"""Rows that are read at once."""


WHERE = "CAST(c.offset AS INTEGER), CAST(c.length AS INTEGER)"
PLACE = f"coalesce(CAST(p.name AS TEXT), ''), {WHERE}"
"""Flipped bits make a number a text; what a place then says is wrong, and found out on reading."""


class Use(NamedTuple):
    """What of a pack is alive; `end` is behind its last live chunk."""

    chunks: int
    bytes: int
    end: int


class Index:
    """The rows of one chunk store. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database = connect(path, "FULL")

    def locate(self, digests: Iterable[Digest]) -> dict[Digest, Place]:
        """Places of those that are here."""
        found: dict[Digest, Place] = {}
        with self._lock, self._reported():
            for batch in batches(digests, BATCH):
                rows = self._database.execute(
                    f"SELECT c.digest, {PLACE} FROM chunks c, packs p"
                    f" WHERE p.id = c.pack AND c.digest IN ({marks(len(batch))})",
                    batch,
                )
                for digest, pack, offset, length in rows:
                    found[digest] = Place(pack, offset, length)
        return found

    def lengths(self, digests: Iterable[Digest]) -> dict[Digest, int]:
        """How long those are that are here: a third of what their places cost."""
        found: dict[Digest, int] = {}
        with self._lock, self._reported():
            for batch in batches(digests, BATCH):
                rows = self._database.execute(
                    "SELECT digest, CAST(length AS INTEGER) FROM chunks"
                    f" WHERE digest IN ({marks(len(batch))})",
                    batch,
                )
                found.update(rows)
        return found

    def promise(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those that are here, and stay for a while: what was condemned of them is spared."""
        self.spare(digests)
        return self._present(digests)

    def spare(self, digests: Iterable[Digest]) -> None:
        """Takes back that chunks are condemned. Whoever looks for them afterwards, and finds them,
        can rely on them."""
        with self._lock, self._reported():
            if self._is_empty("condemned"):
                return
            for batch in batches(digests, BATCH):
                among = f" FROM condemned WHERE digest IN ({marks(len(batch))})"
                if self._database.execute(f"SELECT 1{among} LIMIT 1", batch).fetchone():
                    self._database.execute(f"DELETE{among}", batch)

    def _is_empty(self, table: str) -> bool:
        return self._database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is None

    def _present(self, digests: Sequence[Digest]) -> set[Digest]:
        few = self._few(len(digests))
        if few is not None:
            return few.intersection(digests)
        found: set[Digest] = set()
        with self._lock, self._reported():
            for batch in batches(digests, BATCH):
                rows = self._database.execute(
                    f"SELECT digest FROM chunks WHERE digest IN ({marks(len(batch))})", batch
                )
                found.update(map(itemgetter(0), rows))
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
            for table in ("condemned", "quarantine"):
                if not self._is_empty(table):
                    self._database.executemany(
                        f"DELETE FROM {table} WHERE digest = ?", ((digest,) for digest, _ in rows)
                    )

    def quarantine(self, digest: Digest, place: Place) -> None:
        """Forgets a chunk whose bytes at a place are wrong, so that it is missing again. Does
        nothing if it lies elsewhere by now."""
        with self._lock, self._reported(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            gone = self._database.execute(
                "DELETE FROM chunks WHERE digest = ? AND offset = ?"
                " AND pack = (SELECT id FROM packs WHERE name = ?)",
                (digest, place.offset, place.pack),
            )
            if gone.rowcount:
                self._database.execute(
                    "INSERT OR REPLACE INTO quarantine VALUES (?, ?)", (digest, time.time())
                )

    def quarantined(self, limit: int = 1000) -> list[Digest]:
        """Chunks that were damaged and did not come back, the newest first."""
        with self._lock, self._reported():
            rows = self._database.execute(
                "SELECT digest FROM quarantine ORDER BY at DESC LIMIT ?", (limit,)
            )
            return [digest for (digest,) in rows]

    def quarantined_among(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that were damaged and did not come back."""
        found: list[Digest] = []
        with self._lock, self._reported():
            for batch in batches(digests, BATCH):
                rows = self._database.execute(
                    f"SELECT digest FROM quarantine WHERE digest IN ({marks(len(batch))})", batch
                )
                found += [digest for (digest,) in rows]
        return found

    def uses(self) -> "dict[str, Use]":
        """What of each pack is alive."""
        with self._lock, self._reported():
            names = dict(self._database.execute("SELECT id, name FROM packs"))
            rows = self._database.execute(
                "SELECT pack, count(*), CAST(sum(length) AS INTEGER),"
                " CAST(max(offset + length) AS INTEGER) FROM chunks GROUP BY pack"
            )
            return {names[pack]: Use(*use) for pack, *use in rows if pack in names}

    def rows_of(self, pack: str, after: int = -1) -> Iterator[tuple[Digest, Place]]:
        """The chunks of a pack in the order they lie, beginning behind an offset. Looks at the
        whole index."""
        while True:
            with self._lock, self._reported():
                rows = self._database.execute(
                    f"SELECT digest, {WHERE} FROM chunks c WHERE offset > ?"
                    " AND pack = (SELECT id FROM packs WHERE name = ?) ORDER BY offset LIMIT ?",
                    (after, pack, ROWS),
                ).fetchall()
            for digest, offset, length in rows:
                yield digest, Place(pack, offset, length)
            if len(rows) < ROWS:
                return
            after = rows[-1][1]

    def move(self, moved: Sequence[tuple[Digest, Place, Place]]) -> None:
        """Chunks lie elsewhere from now on, if they still lie where they were: old, new."""
        with self._lock, self._reported(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            ids = {name: self._pack_id(name) for name in {new.pack for _, _, new in moved}}
            self._database.executemany(
                "UPDATE chunks SET pack = ?, offset = ? WHERE digest = ? AND offset = ?"
                " AND pack = (SELECT id FROM packs WHERE name = ?)",
                [
                    (ids[new.pack], new.offset, digest, old.offset, old.pack)
                    for digest, old, new in moved
                ],
            )

    def forget_pack(self, name: str) -> bool:
        """Forgets a pack; False, and nothing, if a chunk lies in it."""
        with self._lock, self._reported(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            row = self._database.execute("SELECT id FROM packs WHERE name = ?", (name,)).fetchone()
            if row is None:
                return True
            used = "SELECT 1 FROM chunks WHERE pack = ? LIMIT 1"
            if self._database.execute(used, row).fetchone() is not None:
                return False
            self._database.execute("DELETE FROM packs WHERE id = ?", row)
            return True

    def is_whole(self) -> bool:
        """Whether SQLite finds nothing wrong with the file. Reads all of it."""
        try:
            with self._lock, self._reported():
                row = self._database.execute("PRAGMA quick_check(1)").fetchone()
        except IndexDamaged:
            return False
        if row[0] != "ok":
            damage_note(self._path).touch()
            return False
        return True

    def cursor(self, name: str) -> str:
        """How far some slow work has come; "" if it is to begin."""
        with self._lock, self._reported():
            rows = self._database.execute("SELECT at FROM cursors WHERE name = ?", (name,))
            return next((str(at) for (at,) in rows), "")

    def put_cursor(self, name: str, at: str) -> None:
        """Writes down how far some slow work has come."""
        with self._lock, self._reported():
            self._database.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (name, at))

    def fold(self) -> None:
        """Brings everything into the one file, so that it can be moved."""
        with self._lock, self._reported():
            self._database.execute("PRAGMA journal_mode = DELETE")
            self._database.execute("PRAGMA journal_mode = WAL")

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
        IndexDamaged: It is no database any more.
        Refused: A newer version of the program has changed its form, or it cannot be used.
    """
    with reported(path):
        database = sqlite3.connect(
            path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            database.execute(f"PRAGMA synchronous = {synchronous}")
            version = int(database.execute("PRAGMA user_version").fetchone()[0])
            if version < SCHEMA_VERSION:
                database.execute("PRAGMA journal_mode = WAL")
                database.executescript(
                    f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
                )
        except BaseException:
            database.close()
            raise
    if version > SCHEMA_VERSION:
        database.close()
        raise Refused(
            f"The chunk store {path.parent} was written by a newer version.",
            f"Its form is {version}; this program knows {SCHEMA_VERSION}.",
            "Use the newer version, or another DSTACK_HOME.",
        )
    return database


class IndexDamaged(Refused):
    """The index is no database any more; it is made again when the store is opened next."""


def damage_note(path: Path) -> Path:
    """The file beside an index that says that it was found damaged."""
    return path.with_name(f"{path.name}.damaged")


@contextmanager
def reported(path: Path) -> Generator[None]:
    """Says SQLite's errors in words: a full disk or a long writer is `Busy`."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except UnicodeDecodeError as error:
        raise _in_words(path, error, sqlite3.SQLITE_CORRUPT) from error
    except sqlite3.DatabaseError as error:
        # A text that is none is refused by Python, which gives no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        raise _in_words(path, error, code) from error


def _in_words(path: Path, error: Exception, code: int) -> MeshError:
    if code == sqlite3.SQLITE_FULL:
        return Busy(
            f"The disk of {path.parent} is full.",
            str(error),
            "Make room there, or move DSTACK_HOME to a larger disk.",
            code="disk-full",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(f"Another process is writing {path}.", str(error), "Try again.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        with suppress(OSError):
            damage_note(path).touch()
        return IndexDamaged(
            f"The index {path} is damaged.",
            str(error),
            "It is made again from the packs once all commands and the agent of this home have"
            " ended: start the agent again.",
            code="index-damaged",
        )
    return Refused(
        f"The database {path} cannot be used.", str(error), "Check the disk and its rights."
    )


def batches(digests: Iterable[Digest], size: int) -> Iterator[list[Digest]]:
    """The digests in lists of at most `size`."""
    waiting = iter(digests)
    while batch := list(islice(waiting, size)):
        yield batch


def marks(count: int) -> str:
    """Place marks of a question."""
    return ",".join("?" * count)
