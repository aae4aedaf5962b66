"""What this home has read of a remote before, so that it is read once: indexes and records.

Neither ever changes in a remote, so a row is right as long as the remote lists the object. Nothing
here is needed: a file that is lost or damaged is made anew, and everything is read again.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dstack_mesh.chunks.index import batches, marks
from dstack_mesh.ids import Digest
from dstack_mesh.remotes.packs import PackIndex, Place, Sized

BATCH = 500
"""Digests in one question."""

WAIT_SECONDS = 30.0
"""How long a writer waits for another process that writes."""

HEARD = "heard"
"""Stands among the records for having listed them; no object of a remote has this key."""

SCHEMA_VERSION = 1

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS packs (
    id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, size INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS chunks (
    digest BLOB NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (digest, pack)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_pack ON chunks (pack, offset);
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
"""


class Known:
    """The rows of one remote. Thread-safe; several processes may share the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._database = _opened(path)
        except sqlite3.DatabaseError:
            _remove(path)
            self._database = _opened(path)

    def packs(self) -> dict[Digest, int]:
        """Packs whose indexes were read, and their sizes."""
        with self._lock:
            rows = self._database.execute("SELECT name, size FROM packs").fetchall()
        return {Digest(name): int(size) for name, size in rows}

    def learn(self, name: Digest, index: PackIndex) -> None:
        """Remembers a pack's chunks."""
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            added = self._database.execute(
                "INSERT OR IGNORE INTO packs (name, size) VALUES (?, ?)", (name, index.size_bytes)
            )
            if added.rowcount:
                self._database.executemany(
                    "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)",
                    _rows(index.chunks, added.lastrowid or 0),
                )

    def forget(self, names: Iterable[Digest]) -> None:
        """Forgets packs that are not there any more."""
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for name in names:
                self._database.execute(
                    "DELETE FROM chunks WHERE pack = (SELECT id FROM packs WHERE name = ?)", (name,)
                )
                self._database.execute("DELETE FROM packs WHERE name = ?", (name,))

    def index(self, name: Digest) -> PackIndex:
        """What lies in a pack that was learned."""
        with self._lock:
            rows = self._database.execute(
                "SELECT c.digest, c.length FROM chunks c, packs p"
                " WHERE p.id = c.pack AND p.name = ? ORDER BY c.offset",
                (name,),
            ).fetchall()
        return PackIndex(tuple((Digest(digest), int(length)) for digest, length in rows))

    def absent(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that are in no pack, in order."""
        absent: list[Digest] = []
        for batch in batches(digests, BATCH):
            with self._lock:
                rows = self._database.execute(
                    f"SELECT DISTINCT digest FROM chunks WHERE digest IN ({marks(len(batch))})",
                    batch,
                ).fetchall()
            present: set[bytes] = {digest for (digest,) in rows}
            absent += [digest for digest in batch if digest not in present]
        return absent

    def located(self, digests: Iterable[Digest]) -> Iterator[tuple[Digest, Place]]:
        """Where each lies, in order; those that are in no pack are left out."""
        for batch in batches(digests, BATCH):
            places = self._places(batch)
            yield from ((digest, places[digest]) for digest in batch if digest in places)

    @property
    def was_heard(self) -> bool:
        """Whether the records of the remote were ever listed whole."""
        return bool(self.records(HEARD))

    def note_heard(self) -> None:
        """Notes that they were."""
        self.keep_record(HEARD, b"")

    def records(self, prefix: str) -> Mapping[str, bytes]:
        """Records whose keys begin with the prefix."""
        with self._lock:
            rows = self._database.execute(
                "SELECT key, content FROM records WHERE key >= ? AND key < ?",
                (prefix, f"{prefix}\U0010ffff"),
            ).fetchall()
        return {str(key): bytes(content) for key, content in rows}

    def keep_record(self, key: str, content: bytes) -> None:
        """Remembers a record."""
        with self._lock, self._database:
            self._database.execute("INSERT OR IGNORE INTO records VALUES (?, ?)", (key, content))

    def forget_records(self, keys: Iterable[str]) -> None:
        """Forgets records that are not there any more."""
        with self._lock, self._database:
            self._database.executemany(
                "DELETE FROM records WHERE key = ?", [(key,) for key in keys]
            )

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._database.close()

    def _places(self, batch: Sequence[Digest]) -> dict[Digest, Place]:
        with self._lock:
            rows = self._database.execute(
                "SELECT c.digest, p.name, c.offset, c.length FROM chunks c, packs p"
                f" WHERE p.id = c.pack AND c.digest IN ({marks(len(batch))})"
                " ORDER BY c.pack DESC",
                batch,
            ).fetchall()
        return {Digest(digest): Place(Digest(name), *at) for digest, name, *at in rows}


def _rows(chunks: Iterable[Sized], pack: int) -> list[tuple[Digest, int, int, int]]:
    rows: list[tuple[Digest, int, int, int]] = []
    offset = 0
    for digest, size in chunks:
        rows.append((digest, pack, offset, size))
        offset += size
    return rows


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA journal_mode = WAL")
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"its form is {version}")
        database.executescript(SCHEMA)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def _remove(path: Path) -> None:
    for left in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(FileNotFoundError):
            left.unlink()
