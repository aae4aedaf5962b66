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
from collections.abc import Sequence

from dstack_mesh.chunks.cache import Cut, FileCache
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.manifest import FileEntry
from dstack_mesh.chunks.reading import executable, stamp_of


def mark(file: int) -> None:
    """Makes an open file whose content is whole tell every later write by its time."""
    now = time.time_ns()
    os.utime(file, ns=(now, now))


def unchanged(folders: Folders, entries: Sequence[FileEntry], cache: FileCache) -> set[str]:
    """Paths of the files below the root that are, in content and mode, as their entry says."""
    stamps = {
        entry.path: stamp_of(state)
        for entry in entries
        if (state := _state(folders, entry.path)) is not None
        and stat.S_ISREG(state.st_mode)
        and executable(state) == entry.executable
    }
    known = cache.find(list(stamps.values()))
    return {
        entry.path
        for entry in entries
        if entry.path in stamps and known.get(stamps[entry.path]) == Cut(entry.sizes, entry.digests)
    }


def _state(folders: Folders, path: str) -> os.stat_result | None:
    folder, name = split(path)
    try:
        return os.stat(name, dir_fd=folders.enter(folder), follow_symlinks=False)
    except OSError:
        return None
