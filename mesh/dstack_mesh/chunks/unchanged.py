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
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.holes import hole_at, is_hole
from dstack_mesh.chunks.manifest import FileEntry
from dstack_mesh.chunks.reading import OPEN_TO_READ, executable, stamp_of
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


def verified(folders: Folders, entry: FileEntry) -> Stamp | None:
    """The stamp of the file that lies at an entry's path, if every byte of it is as it should be.

    It was laid by one that was killed before it could write that down, or by somebody else.
    """
    folder, name = split(entry.path)
    try:
        handle = folders.enter(folder)
        # A device is not even opened: opening a tape or a watchdog does things.
        if not _could_be(os.stat(name, dir_fd=handle, follow_symlinks=False), entry):
            return None
        file = os.open(name, OPEN_TO_READ, dir_fd=handle)
    except OSError:
        return None
    try:
        before = os.fstat(file)
        if _could_be(before, entry) and _has_all(file, entry):
            stamp = stamp_of(os.fstat(file))
            return stamp if stamp == stamp_of(before) else None
    except OSError:
        pass
    finally:
        os.close(file)
    return None


def _could_be(state: os.stat_result, entry: FileEntry) -> bool:
    return (
        stat.S_ISREG(state.st_mode)
        and state.st_size == entry.size_bytes
        and executable(state) == entry.executable
    )


def _has_all(file: int, entry: FileEntry) -> bool:
    offset = 0
    for digest, size in entry.chunks():
        if is_hole(digest, size) and hole_at(file, offset, entry.size_bytes) >= size:
            pass
        elif digest_of(os.pread(file, size, offset)) != digest:
            return False
        offset += size
    return True


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
