"""Finds which files of a tree lie at its target already, so that they neither travel nor are
written.

A file that was laid is remembered with device, inode, size and both its times; while these are the
same, so is its content. A kernel stamps times in steps of some milliseconds, so a write right after
could leave the same ones: `mark` therefore gives a file a time to the nanosecond before it gets its
name, which no write leaves by chance.
"""

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from dstack_mesh.chunks.cache import FileCache, Stamp
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.manifest import FileEntry
from dstack_mesh.chunks.reading import executable, stamp_of
from dstack_mesh.frozen import frozen

_BATCH = 500
"""Files that are looked up at once."""


@frozen
class Lying:
    """What lies at the paths of files.

    Attributes:
        same: Paths of files that are, in content and mode, as they are wanted.
        others: Paths of files that are not, or of which nobody knows.
    """

    same: set[str]
    others: set[str]


def mark(file: int) -> None:
    """Makes an open file whose content is whole tell every later write by its time."""
    now = time.time_ns()
    os.utime(file, ns=(now, now))


def lying(folders: Folders, entries: Sequence[FileEntry], cache: FileCache | None) -> Lying:
    """Which files lie below the root already. Entries in order cost least."""
    found = Lying(set(), set())
    seen = _seen(folders, entries)
    while batch := list(islice(seen, _BATCH)):
        known = cache.find([stamp for _, stamp, _ in batch]) if cache else {}
        for entry, stamp, may_run in batch:
            same = known.get(stamp) == (entry.sizes, entry.digests)
            kept = same and may_run == entry.executable
            (found.same if kept else found.others).add(entry.path)
    return found


def _seen(
    folders: Folders, entries: Iterable[FileEntry]
) -> Iterator[tuple[FileEntry, Stamp, bool]]:
    """Entries with a regular file in their place: what it is, and whether its owner may run it."""
    folder, handle = "", folders.enter("")
    for entry in entries:
        parent, name = split(entry.path)
        if parent != folder:
            folder, handle = parent, _handle(folders, parent)
        state = _state(handle, name) if handle >= 0 else None
        if state and stat.S_ISREG(state.st_mode):
            yield entry, stamp_of(state), executable(state)


def _handle(folders: Folders, folder: str) -> int:
    try:
        return folders.enter(folder)
    except OSError:
        return -1


def _state(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
