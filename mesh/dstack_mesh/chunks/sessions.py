"""Sessions: who relies on what a store said is here, in any process.

A peer that was told "this chunk is here" does not send it, and names it in a manifest later. So
nothing that was said to be here may go until that is over. Each session is a small locked file; the
system lets go of the lock when its process dies, however it dies.

What a collector may take is what nobody has needed since `horizon`: a grace before the oldest
session began. So what was promised up to a grace before a session, within it, and a while after it
is safe, however long it lasts.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from dstack_mesh.chunks.room import trouble

GRACE_SECONDS = 3600.0
"""How long what was said to be here stays, at least. Longer: slower peers are served; shorter: room
comes back sooner."""


class Session:
    """One session; ends with `close`, with its block, or with the process."""

    def __init__(self, folder: Path, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace = grace_seconds
        self._began = time.time()
        self._path = folder / os.urandom(8).hex()
        self._file = -1
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            raise trouble(error, folder) from error

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends it. A long one leaves its file: what it wrote may be named right after."""
        if self._file < 0:
            return
        now = time.time()
        with suppress(OSError):  # what is left counts for a while longer
            if now < self._began + self._grace / 2:
                self._path.unlink()
            else:
                os.utime(self._path, (now, self._began))
        os.close(self._file)
        self._file = -1


def horizon(folder: Path, grace_seconds: float = GRACE_SECONDS) -> float:
    """What was not needed since this moment is needed by nobody. Seconds since the epoch."""
    now = time.time()
    starts = [now]
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            state = path.stat()
            if _is_held(path) or now < state.st_atime + grace_seconds:
                starts.append(state.st_mtime)
            else:
                path.unlink()
    return min(starts) - grace_seconds


def _is_held(path: Path) -> bool:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
