"""Notices whatever opens, reads, writes or makes anything in a folder, by inotify."""

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_ALL_EVENTS = 0xFFF

_libc = ctypes.CDLL(None, use_errno=True)


class Canary:
    """Listens to a folder, not to those below it."""

    def __init__(self, folder: Path) -> None:
        self._file = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        assert self._file >= 0
        assert int(_libc.inotify_add_watch(self._file, bytes(folder), _ALL_EVENTS)) >= 0

    def touched(self) -> bool:
        """Whether anything was done there since the last time this was asked."""
        touched = False
        with suppress(BlockingIOError):
            while os.read(self._file, 1 << 16):
                touched = True
        return touched

    def close(self) -> None:
        """Listens no more."""
        os.close(self._file)


@contextmanager
def untouched(folder: Path) -> Generator[Canary]:
    """Asserts at the end that nobody touched the folder, and that it would have been noticed."""
    canary = Canary(folder)
    try:
        yield canary
        assert not canary.touched(), f"something touched {folder}"
        with suppress(StopIteration):
            next(folder.iterdir())
        assert canary.touched(), "the canary is dead"
    finally:
        canary.close()
