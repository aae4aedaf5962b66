"""Makes new files durable without making their writer wait for the disk.

Large files are synced in a thread of their own while others are written. An fsync of a small file
costs as much as writing a megabyte, so a few small files are synced at the end, and many by one
`sync`.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.packs import sync_data

LARGE_BYTES = 1 << 20
"""A file of this size is synced by itself."""

FEW = 64
"""Up to so many names are synced one by one."""

BEHIND = 4
"""Syncs that may wait; then the writer waits too, so dirty memory stays bounded."""


class Syncer:
    """Syncs in the background what it is given. For one thread at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "sync")
        self._waiting: list[Future[None]] = []

    def begin(self, file: int) -> None:
        """Begins to sync an open file; waits if too much is waiting. Raises OSError of earlier
        ones."""
        self._waiting.append(self._thread.submit(_sync, os.dup(file)))
        if len(self._waiting) > BEHIND:
            self._waiting.pop(0).result()

    def finish(self, folders: Folders, large: set[str], small: Sequence[str]) -> None:
        """Returns once all files and their names survive a loss of power.

        Args:
            large: Paths below the folders that were given to `begin` when they were whole.
            small: Those that were not.
        """
        for waiting in self._waiting:
            waiting.result()
        self._waiting.clear()
        parents = {split(path)[0] for path in [*large, *small]}
        if len(small) + len(parents) > FEW:
            os.sync()
            return
        for path in small:
            folder, name = split(path)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            _sync(os.open(name, flags, dir_fd=folders.enter(folder)))
        for parent in sorted(_with_ancestors(parents)):
            os.fsync(folders.enter(parent))

    def close(self) -> None:
        """Ends the thread; what waits is still synced."""
        self._thread.shutdown()


def _sync(file: int) -> None:
    try:
        sync_data(file)
    finally:
        os.close(file)


def _with_ancestors(folders: set[str]) -> set[str]:
    found = {""}
    for folder in folders:
        while folder and folder not in found:
            found.add(folder)
            folder = split(folder)[0]
    return found
