"""Streams on disk: one SQLite file, written in one thread, read once at the start."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.ids import PeerId
from dstack_mesh.records.record import Delta, Place, Record, head_of, record_of
from dstack_mesh.records.stream import Stream, stream_of
from dstack_mesh.signing import Signed

VERSION = 1

SCHEMA = """
CREATE TABLE head (
    writer TEXT PRIMARY KEY, body BLOB NOT NULL, key BLOB NOT NULL, signature BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE record (
    writer TEXT NOT NULL, incarnation INTEGER NOT NULL, seq INTEGER NOT NULL,
    body BLOB NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (writer, incarnation, seq)
);
CREATE TABLE pen (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), incarnation INTEGER NOT NULL);
"""


class RecordStore:
    """The records of a home. Made and closed in the event loop's thread. Raises Refused."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="peer-records")
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path)
        except BaseException:
            self.close()
            raise

    def _prepare(self, path: Path) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise Refused(
                "The records of other agents were written by a newer version.",
                f"{path} has format {version}; this version knows {VERSION}.",
                f"Install the newer version again, or remove {path}: the others tell it again.",
                "newer-records",
            )
        if version == 0:
            self._database.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={VERSION};COMMIT;")

    def load(self) -> tuple[list[Stream], list[PeerId]]:
        """The streams whose records add up to their heads; and writers of which that is not so.

        Call it before anything is saved. Signatures were checked before the records came here.
        """
        streams: list[Stream] = []
        damaged: list[PeerId] = []
        for writer, body, key, signature in self._database.execute("SELECT * FROM head"):
            rows = self._database.execute(
                "SELECT body, signature FROM record WHERE writer = ?", (writer,)
            )
            try:
                records = tuple(record_of(*row) for row in rows)
                stream = stream_of(None, Delta(head_of(Signed(body, key, signature)), records))
            except Invalid:
                stream = None
            if stream is None:
                damaged.append(PeerId(writer))
            else:
                streams.append(stream)
        return streams, damaged

    def incarnation(self) -> int:
        """The last one taken here; 0 before the first."""
        row = self._database.execute("SELECT incarnation FROM pen").fetchone()
        return row[0] if row is not None else 0

    async def take_incarnation(self, number: int) -> None:
        """Writes down durably that we write under this number now."""
        statement = "INSERT OR REPLACE INTO pen VALUES (1, ?)"
        await self._do(lambda: self._database.execute(statement, (number,)), durable=True)

    async def save(self, earlier: Stream | None, stream: Stream, durable: bool) -> None:
        """Puts a stream in the place of an earlier one of its writer."""
        old = {r.place: r for r in earlier.records.values()} if earlier is not None else {}
        new = {r.place: r for r in stream.records.values()}
        gone = [place for place in old if place not in new]
        added = [each for place, each in new.items() if place not in old]
        await self._do(lambda: self._put(stream, gone, added, earlier is None), durable)

    async def drop(self, writers: Iterable[PeerId]) -> None:
        """Removes all of some writers."""
        rows = [(writer,) for writer in writers]

        def remove() -> None:
            self._database.executemany("DELETE FROM record WHERE writer = ?", rows)
            self._database.executemany("DELETE FROM head WHERE writer = ?", rows)

        await self._do(remove)

    def _put(self, stream: Stream, gone: list[Place], added: list[Record], whole: bool) -> None:
        writer, signed = stream.writer, stream.head.signed
        if whole:
            self._database.execute("DELETE FROM record WHERE writer = ?", (writer,))
        self._database.executemany(
            "DELETE FROM record WHERE writer = ? AND incarnation = ? AND seq = ?",
            [(writer, *place) for place in gone],
        )
        self._database.executemany(
            "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?)",
            [(writer, *each.place, each.body, each.signature) for each in added],
        )
        self._database.execute(
            "INSERT OR REPLACE INTO head VALUES (?, ?, ?, ?)",
            (writer, signed.body, signed.key, signed.signature),
        )

    async def _do(self, change: Callable[[], object], durable: bool = False) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._transact, change, durable)

    def _transact(self, change: Callable[[], object], durable: bool) -> None:
        self._database.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        self._database.execute("BEGIN IMMEDIATE")
        try:
            change()
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Waits for writes under way and closes."""
        self._writer.shutdown()
        self._database.close()
