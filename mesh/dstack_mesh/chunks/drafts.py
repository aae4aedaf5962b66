"""Files that are not whole yet, and how those of a process that was killed are found again.

A draft lies beside the file that it becomes, under a name that says which bytes it is to have. A
kill leaves it there, and in the store of the home a journal that names it. Whoever brings the same
bytes to the same place takes the draft over and verifies what is in it; what nobody took over is
removed after a week. The system lets go of a journal's lock when its process dies.
"""

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.holes import hole_at, is_hole
from dstack_mesh.chunks.manifest import FileEntry
from dstack_mesh.chunks.room import trouble
from dstack_mesh.ids import Digest

ABANDONED_SECONDS = 7 * 86_400.0
"""How long a draft waits for whoever goes on. Longer: a holiday costs nothing; shorter: less room
is taken by what nobody wants."""

LARGE_BYTES = 1 << 20
"""Of smaller drafts a few are left at most: their room is not looked at."""

_NAME = re.compile(r"\.[0-9a-f]{16}\.new")
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Drafts:
    """The journals of one store, below a folder that is made when it is needed.

    Args:
        what: The tree that is brought; "" for any.
    """

    def __init__(self, folder: Path, what: str = "") -> None:
        self._folder = folder
        self._what = what

    def of(self, tree: Digest) -> "Drafts":
        """The same for one tree."""
        return Drafts(self._folder, tree.hex())

    def begin(self, root: Path, path: Path) -> "Journal":
        """The journal of drafts below a root, of what is to be at a path. Raises Busy if the disk
        is full."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            name = self._folder / os.urandom(8).hex()
            return Journal(self, name, root.absolute(), path.absolute(), self._what)
        except OSError as error:
            raise trouble(error, self._folder) from error

    def broke_off(self, path: Path) -> bool:
        """Whether somebody began to bring the tree to a path, and neither ended nor goes on."""
        return any(left.is_of(path, self._what) for left in self._left())

    def finished(self, path: Path) -> None:
        """Removes what those left that brought the tree to a path before."""
        for left in self._left():
            if left.is_of(path, self._what):
                left.remove(float("inf"))

    def sweep(self, abandoned_seconds: float = ABANDONED_SECONDS) -> int:
        """Removes drafts that nobody touched for so long; how many."""
        before = time.time() - abandoned_seconds
        return sum(left.remove(before) for left in self._left() if left.at < before)

    def _left(self) -> Iterator["_Left"]:
        """The journals that nobody writes, each locked while it is looked at."""
        for path in list(self._folder.iterdir()) if self._folder.is_dir() else ():
            with suppress(OSError, ValueError):  # somebody writes it, it is gone, or it is torn
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    root, target, what, *names = os.fsdecode(path.read_bytes()).split("\0")
                    at = os.fstat(file).st_mtime
                    yield _Left(path, at, Path(root), Path(target), what, names)
                finally:
                    os.close(file)


@dataclass(frozen=True, slots=True)
class _Left:
    """A journal that was left, and what it says."""

    journal: Path
    at: float
    root: Path
    path: Path
    what: str
    drafts: Sequence[str]

    def is_of(self, path: Path, what: str) -> bool:
        return self.path == path.absolute() and self.what == what

    def remove(self, before: float) -> int:
        """Removes its drafts that nobody touched since then, and itself; how many those were."""
        removed = 0
        with suppress(OSError), Folders(self.root) as folders:
            removed = sum(_removed(folders, path, before) for path in self.drafts)
        self.journal.unlink(missing_ok=True)
        return removed


class Journal:
    """Names the drafts of one process while it lives. For one thread."""

    def __init__(self, drafts: Drafts, journal: Path, root: Path, path: Path, what: str) -> None:
        self._drafts = drafts
        self._journal = journal
        self._path = path
        self._is_finished = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(journal, flags, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.write(self._file, os.fsencode(f"{root}\0{path}\0{what}"))

    def note(self, folder: str, name: str) -> None:
        """A draft in a folder below the root is about to be written. Raises OSError."""
        os.write(self._file, b"\0" + os.fsencode(f"{folder}/{name}".lstrip("/")))

    def finish(self) -> None:
        """All is where it belongs: nobody goes on from here."""
        self._is_finished = True
        self._drafts.finished(self._path)

    def close(self) -> None:
        """None of the drafts is left. One that is not finished stays: the next one goes on."""
        if self._is_finished:
            with suppress(OSError):
                self._journal.unlink()
        os.close(self._file)


def draft_of(entry: FileEntry) -> str:
    """The name of a file's draft, the same for whoever brings the same bytes to the same place."""
    _, name = split(entry.path)
    return f".{digest_of(name.encode() + entry.digests)[:8].hex()}.new"


def draft_name() -> str:
    """A name for what is not whole yet, and that nobody else has."""
    return f".{os.urandom(8).hex()}.new"


def room_taken(folders: Folders, entries: Iterable[FileEntry]) -> int:
    """Bytes on disk of drafts that large files have already."""
    taken = 0
    for entry in entries:
        if entry.size_bytes >= LARGE_BYTES:
            with suppress(OSError):
                handle = folders.enter(split(entry.path)[0])
                state = os.stat(draft_of(entry), dir_fd=handle, follow_symlinks=False)
                taken += min(state.st_blocks * 512, entry.size_bytes)
    return taken


def create_draft(folder: int, entry: FileEntry, journal: Journal | None) -> tuple[str, int]:
    """A new draft of a file, open, and its name; one that nobody finds if there is no journal, or
    if somebody else brings the same file now. Raises OSError."""
    names = (draft_of(entry), draft_name()) if journal else (draft_name(),)
    for name in names:
        if journal:
            journal.note(split(entry.path)[0], name)
        with suppress(FileExistsError):
            file = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            with suppress(OSError):  # where there are no locks nobody takes it over
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return name, file
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), entry.path)


def take_over(folder: int, name: str) -> int | None:
    """The draft of that name in a folder, open; None if there is none that is ours alone."""
    try:
        # A device is not even opened: opening a tape or a watchdog does things.
        seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not _is_ours(seen):
            return None
        file = os.open(name, _OPEN, dir_fd=folder)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have given it its name meanwhile.
        now = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if _is_ours(now) and os.path.samestat(now, os.fstat(file)):
            return file
    except OSError:
        pass
    os.close(file)
    return None


def draft_left(folder: int, entry: FileEntry) -> tuple[int, bytearray] | None:
    """The draft that somebody left of a file, open, and which chunks it has; None if there is none.

    What is no draft of this file is removed. Raises OSError.
    """
    name = draft_of(entry)
    file = take_over(folder, name)
    if file is None:
        return None
    try:
        there = chunks_in(file, entry)
        if there is not None:
            return file, there
        os.unlink(name, dir_fd=folder)
    except OSError:
        os.close(file)
        raise
    os.close(file)
    return None


def chunks_in(file: int, entry: FileEntry) -> bytearray | None:
    """Which chunks of an entry an open draft has in their places: 1 or 0 for each.

    The draft gets the size of the whole. None if something is written where a hole belongs, or
    behind the end: it is no draft of this entry.
    """
    if os.fstat(file).st_size > entry.size_bytes:
        return None
    os.ftruncate(file, entry.size_bytes)
    there = bytearray()
    offset = 0
    for digest, size in entry.chunks():
        if hole_at(file, offset, entry.size_bytes) >= size:
            there.append(is_hole(digest, size))
        else:
            there.append(digest_of(os.pread(file, size, offset)) == digest)
        if is_hole(digest, size) and not there[-1]:
            return None
        offset += size
    return there


def _removed(folders: Folders, path: str, before: float) -> bool:
    """Removes a draft if it is one that nobody touched since then; whether it was."""
    folder, name = split(path)
    with suppress(OSError):
        handle = folders.enter(folder)
        file = take_over(handle, name) if _NAME.fullmatch(name) else None
        if file is not None:
            try:
                if os.fstat(file).st_mtime < before:
                    os.unlink(name, dir_fd=handle)
                    return True
            finally:
                os.close(file)
    return False


def _is_ours(state: os.stat_result) -> bool:
    """Whether nobody else can write to a file."""
    return (
        stat.S_ISREG(state.st_mode)
        and state.st_uid == os.geteuid()
        and state.st_nlink == 1
        and not state.st_mode & _OTHERS_WRITE
    )
