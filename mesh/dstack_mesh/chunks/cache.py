"""Remembers the chunks of files that were read, so that an unchanged file is not read again.

A file is the same if device, inode, size and both its times are. A file that changed within the
last moments before it was read is not remembered: another change could leave the same times (git
calls such an entry "racily clean"). A row promises nothing: the chunks it names are looked up in
the index.
"""

import threading
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dstack_mesh.chunks.index import connect, marks, reported
from dstack_mesh.chunks.sizes import shared

KEPT_FILES = 500_000
"""Rows that are kept; the oldest go first. One is about 150 bytes and 36 more a chunk."""

SETTLED_NS = 50_000_000
"""How long a file must have been as it is. Kernels stamp times in steps of up to 10 ms."""

_BATCH = 500


class Stamp(NamedTuple):
    """What tells whether a file is still the same. A tuple, which costs less to make and compare:
    a tree has 100,000 files."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def settled(self, now_ns: int) -> bool:
        """Whether a change after `now_ns` would show in the times."""
        return max(self.mtime_ns, self.ctime_ns) + SETTLED_NS < now_ns


class Cut(NamedTuple):
    """The chunks of a file's content: sizes, and digests one after the other."""

    sizes: tuple[int, ...]
    digests: bytes


class FileCache:
    """The remembered files of one store. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database = connect(path, "NORMAL")

    def find(self, stamps: Sequence[Stamp]) -> dict[Stamp, Cut]:
        """What is known of these files."""
        found: dict[Stamp, Cut] = {}
        with self._lock, reported(self._path):
            for begin in range(0, len(stamps), _BATCH):
                batch = {stamp[:2]: stamp for stamp in stamps[begin : begin + _BATCH]}
                rows = self._database.execute(
                    "SELECT device, inode, size, mtime_ns, ctime_ns, chunks FROM files"
                    f" WHERE device IN ({marks(len({device for device, _ in batch}))})"
                    f" AND inode IN ({marks(len(batch))})",
                    [*{device for device, _ in batch}, *(inode for _, inode in batch)],
                )
                for row in rows:
                    stamp = batch.get(row[:2])
                    if stamp is not None and stamp == row[:5]:
                        found[stamp] = _unpack(row[5])
        return found

    def remember(self, files: Iterable[tuple[Stamp, Cut]]) -> None:
        """Writes files down; survives a crash of the process, not of the machine."""
        rows = ((*at, _pack(cut)) for at, cut in files)
        with self._lock, reported(self._path), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT OR REPLACE INTO files (device, inode, size, mtime_ns, ctime_ns, chunks)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._database.execute(
                "DELETE FROM files WHERE id <= (SELECT max(id) FROM files) - ?", (KEPT_FILES,)
            )

    def close(self) -> None:
        """Lets go of the database."""
        with self._lock:
            self._database.close()


def _pack(cut: Cut) -> bytes:
    return array("I", cut.sizes).tobytes() + cut.digests


def _unpack(chunks: bytes) -> Cut:
    ends = len(chunks) // 36 * 4
    return Cut(shared(memoryview(chunks)[:ends].cast("I")) if ends else (), chunks[ends:])
