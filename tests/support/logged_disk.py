"""A disk of one file that logs what is written and when it is flushed; a process of its own.

`python -m support.logged_disk MOUNTPOINT IMAGE LOG`: serves IMAGE as the file "disk" below
MOUNTPOINT until it is unmounted. Each write is appended to LOG as a record, and so is each flush.
"""

import os
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

RECORD = struct.Struct("<QI")
FLUSH = (1 << 64) - 1


class Write(NamedTuple):
    """Bytes that were written at an offset; `end` is where its record ends in the log."""

    offset: int
    data: bytes
    end: int


class Flush(NamedTuple):
    """Everything before is safe from here on."""

    end: int


def read_log(path: Path) -> Iterator[Write | Flush]:
    """The records of a log."""
    at = 0
    with path.open("rb") as log:
        while len(head := log.read(RECORD.size)) == RECORD.size:
            offset, length = RECORD.unpack(head)
            at += RECORD.size + length
            yield Flush(at) if offset == FLUSH else Write(offset, log.read(length), at)


def serve(mountpoint: str, image: str, log: str) -> None:
    """Serves until unmounted."""
    from mfusepy import FUSE, Operations  # pyright: ignore[reportMissingTypeStubs]

    class Disk(Operations):
        """One file. Writes are logged before they are done."""

        use_ns = True

        def __init__(self) -> None:
            self._image = os.open(image, os.O_RDWR)
            self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._lock = threading.Lock()

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            if path == "/":
                return {"st_mode": 0o40755, "st_nlink": 2}
            size = os.fstat(self._image).st_size
            return {"st_mode": 0o100600, "st_nlink": 1, "st_size": size}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", "disk"]

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(self._image, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            with self._lock:
                os.write(self._log, RECORD.pack(offset, len(data)) + data)
                return os.pwrite(self._image, data, offset)

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            with self._lock:
                os.write(self._log, RECORD.pack(FLUSH, 0))
            return 0

    FUSE(Disk(), mountpoint, foreground=True, nothreads=True, direct_io=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
