"""Which chunks no tree names: condemned first, swept after a grace.

What trees name is gathered in a temporary table on disk, so memory does not grow with the store.
Each step is one short transaction; others write in between.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dstack_mesh.chunks.index import batches, connect, reported
from dstack_mesh.ids import Digest

STEP = 5_000
"""Rows of one transaction. More: faster; fewer: others wait less."""


class Sweep:
    """One pass over the index, on a connection of its own. For one thread; use as a block."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "index.sqlite"
        self._database = connect(self._path, "FULL")
        with reported(self._path):
            self._database.execute(
                "CREATE TEMP TABLE reached (digest BLOB PRIMARY KEY) WITHOUT ROWID"
            )

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *failure: object) -> None:
        self._database.close()

    def reach(self, digests: Iterable[Digest]) -> None:
        """A tree names these."""
        for batch in batches(digests, STEP):
            with self._transaction(immediate=False):
                self._database.executemany(
                    "INSERT OR IGNORE INTO reached VALUES (?)", ((one,) for one in batch)
                )

    def unreached(self) -> tuple[int, int]:
        """How many chunks no tree names, and their bytes."""
        with reported(self._path):
            row = self._database.execute(
                "SELECT count(*), coalesce(sum(length), 0) FROM chunks"
                " WHERE digest NOT IN (SELECT digest FROM reached)"
            ).fetchone()
        return int(row[0]), int(row[1])

    def condemn(self) -> Iterator[None]:
        """Condemns what no tree names, and spares what one does; a step each time."""
        with self._transaction():
            self._database.execute(
                "DELETE FROM condemned WHERE digest IN (SELECT digest FROM reached)"
                " OR digest NOT IN (SELECT digest FROM chunks)"
            )
        first = b""
        while first is not None:
            with self._transaction():
                last = self._database.execute(
                    "SELECT digest FROM chunks WHERE digest > ? ORDER BY digest LIMIT 1 OFFSET ?",
                    (first, STEP),
                ).fetchone()
                self._database.execute(
                    "INSERT OR IGNORE INTO condemned SELECT digest, ? FROM chunks"
                    " WHERE digest > ? AND digest <= ?"
                    " AND digest NOT IN (SELECT digest FROM reached)",
                    (time.time(), first, last[0] if last else b"\xff" * 64),
                )
            first = last[0] if last else None
            yield

    def sweep(self, before: float) -> Iterator[tuple[int, int]]:
        """Takes what was condemned before a moment; chunks and bytes of each step."""
        while True:
            with self._transaction():
                rows = self._database.execute(
                    "SELECT n.digest, c.length FROM condemned n JOIN chunks c USING (digest)"
                    " WHERE n.at < ? LIMIT ?",
                    (before, STEP),
                ).fetchall()
                for table in ("chunks", "condemned"):
                    self._database.executemany(
                        f"DELETE FROM {table} WHERE digest = ?", [(digest,) for digest, _ in rows]
                    )
            if not rows:
                return
            yield len(rows), sum(length for _, length in rows)

    def waiting(self) -> int:
        """Bytes that are condemned and not swept yet."""
        with reported(self._path):
            row = self._database.execute(
                "SELECT coalesce(sum(length), 0) FROM condemned JOIN chunks USING (digest)"
            ).fetchone()
        return int(row[0])

    @contextmanager
    def _transaction(self, immediate: bool = True) -> Generator[None]:
        """One transaction, whose errors are said in words."""
        with reported(self._path), self._database:
            self._database.execute("BEGIN IMMEDIATE" if immediate else "BEGIN")
            yield
