"""Finds what is in a folder and brings its bytes into the store.

Rules: regular files, folders with nothing in them and links that stay inside are kept, with the
owner's execute bit; everything else is left out and named with the reason. Every name is opened
beneath a directory handle, so whatever the tree's owner swaps meanwhile, nothing outside the root
is read. Files that did not change since they were read the last time are not read again.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dstack_mesh.chunks.batch import Batch
from dstack_mesh.chunks.cache import Cut, Stamp
from dstack_mesh.chunks.digest import each_digest
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.manifest import Entry, FileEntry, FolderEntry, LinkEntry
from dstack_mesh.chunks.paths import link_fault, path_fault
from dstack_mesh.chunks.reading import TRIES, executable, read_file, stamp_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Missing, Refused
from dstack_mesh.frozen import frozen

REMEMBERED_FILES = 4096
"""So many are written down at a time."""


@frozen(slots=True)
class Skipped:
    """Something that was left out, and why, in words that follow its name."""

    path: str
    reason: str


@dataclass(slots=True)
class Scan:
    """What was found below a root; its chunks are in the store, `written_bytes` of them anew."""

    entries: list[Entry] = field(default_factory=list[Entry])
    skipped: list[Skipped] = field(default_factory=list[Skipped])
    changed: list[str] = field(default_factory=list[str])
    written_bytes: int = 0

    def skip(self, path: str, reason: str) -> None:
        """Leaves something out. Bytes of a name that are no text are shown as escapes."""
        shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        self.skipped.append(Skipped(shown, reason))


@frozen
class Care:
    """How a tree is scanned whose owner goes on writing to it.

    Attributes:
        heed: Is shown the handle of each folder before what is in it is looked at.
        tries: How often a file is read that changes each time.
    """

    heed: Callable[[int], None] = lambda _: None
    tries: int = TRIES


CARE = Care()


@frozen(slots=True)
class _File:
    """A regular file that was seen and not yet read."""

    path: str
    stamp: Stamp
    executable: bool


def scan(
    store: ChunkStore,
    root: Path,
    paths: Iterable[str] | None = None,
    within: Path | None = None,
    judge: Callable[[Mapping[str, int]], None] | None = None,
    care: Care = CARE,
) -> Scan:
    """What is in a folder, or what is listed of it; arguments and errors as `tree.save_tree`.

    Args:
        judge: Is shown the size of each file before any is read; may raise to refuse.
    """
    found = Scan()
    try:
        folders = Folders(root, within)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Missing(f"There is no folder {root}.", error.strerror or "") from error
    except (OSError, ValueError) as error:
        raise Refused(f"The folder {root} cannot be read.", str(error)) from error
    with folders:
        seen = (
            _walk(folders, found, care.heed) if paths is None else _look_up(folders, paths, found)
        )
        files = list(seen)
        if judge:
            judge({file.path: file.stamp.size for file in files})
        _take(store, folders, files, found, care.tries)
    return found


def _look_up(folders: Folders, paths: Iterable[str], found: Scan) -> Iterator[_File]:
    """The files among the listed paths."""
    for path in sorted(set(paths), key=split):
        fault = path_fault(path)
        if fault:
            found.skip(path, fault)
            continue
        folder, name = split(path)
        try:
            handle = folders.enter(folder)
            state = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            found.skip(path, f"it cannot be read: {error.strerror}")
            continue
        if stat.S_ISDIR(state.st_mode):
            found.skip(path, "it is a folder")
        else:
            yield from _sort(path, name, handle, state, found)


def _walk(folders: Folders, found: Scan, heed: Callable[[int], None]) -> Iterator[_File]:
    """All files below the root, folder by folder."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            handle = folders.enter(folder)
            heed(handle)
            names = sorted(os.listdir(handle))  # noqa: PTH208 (a handle)
        except OSError as error:
            found.skip(folder, f"it cannot be read: {error.strerror}")
            continue
        if folder and not names:
            found.entries.append(FolderEntry(folder))
        below: list[str] = []
        for name in names:
            path = f"{folder}/{name}" if folder else name
            fault = path_fault(path)
            if fault:
                found.skip(path, fault)
                continue
            try:
                state = os.stat(name, dir_fd=handle, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(state.st_mode):
                below.append(path)
            else:
                yield from _sort(path, name, handle, state, found)
        waiting.extend(reversed(below))


def _sort(path: str, name: str, folder: int, state: os.stat_result, found: Scan) -> Iterator[_File]:
    """Files are yielded, links are kept at once, everything else is left out."""
    if stat.S_ISREG(state.st_mode):
        yield _File(path, stamp_of(state), executable(state))
    elif stat.S_ISLNK(state.st_mode):
        try:
            target = os.readlink(name, dir_fd=folder)
        except OSError as error:
            found.skip(path, f"it cannot be read: {error.strerror}")
            return
        fault = link_fault(path, target)
        if fault:
            found.skip(path, fault)
        else:
            found.entries.append(LinkEntry(path, target))
    else:
        found.skip(path, "it is no regular file, folder or link")


def _take(store: ChunkStore, folders: Folders, files: list[_File], found: Scan, tries: int) -> None:
    """Adds files, from memory where they did not change, else by reading them."""
    known = store.cache.find([file.stamp for file in files])
    lost = set(store.missing(d for cut in known.values() for d in each_digest(cut.digests)))
    batch = Batch(store)
    began_ns = time.time_ns()
    fresh: list[tuple[Stamp, Cut]] = []
    # What was done is let go: of 100,000 files it takes 40 MB.
    files.reverse()
    while files:
        file = files.pop()
        cut = known.get(file.stamp)
        if cut and not (lost and lost.intersection(each_digest(cut.digests))):
            found.entries.append(FileEntry(file.path, cut.sizes, cut.digests, file.executable))
        else:
            fresh.extend(_read(folders, file.path, batch, began_ns, found, tries))
        if len(fresh) >= REMEMBERED_FILES or (fresh and not files):
            store.cache.remember(fresh)
            fresh.clear()
    batch.commit()
    found.written_bytes = batch.written_bytes
    batch.close()


def _read(
    folders: Folders, path: str, batch: Batch, began_ns: int, found: Scan, tries: int
) -> Iterator[tuple[Stamp, Cut]]:
    """Adds a file by reading it; yields what may be remembered of it."""
    folder, name = split(path)
    try:
        read = read_file(folders.enter(folder), name, batch, tries)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        found.skip(path, f"it cannot be read: {error.strerror}")
        return
    if read is None:
        found.skip(path, "something else took its place while it was read")
        return
    found.entries.append(FileEntry(path, read.cut.sizes, read.cut.digests, read.executable))
    if read.torn:
        found.changed.append(path)
    elif read.stamp.settled(began_ns):
        yield read.stamp, read.cut
