"""Pack files: frames of chunks one after the other, written once, never changed.

Each writer has packs of its own, so processes that share a folder never write to the same file, and
holds a lock on the one that it writes, so that nobody tidies it up meanwhile. Bytes past the last
row of the index are the tail of a writer that died: nobody refers to them.
After a failed fsync the kernel may have dropped the bytes and forgotten the error (PostgreSQL's
"fsyncgate", 2018), so that pack is never written or promised again.
"""

import errno
import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dstack_mesh.chunks.frames import MOST_CHUNKS, header
from dstack_mesh.chunks.room import trouble
from dstack_mesh.faults import Damaged, Refused
from dstack_mesh.ids import Digest

PACK_BYTES = 256 << 20
"""A pack is closed once it is this long. Larger: fewer files; smaller: space comes back sooner."""

OPEN_PACKS = 64
"""Packs that a reader keeps open."""

LONGEST_READ_BYTES = 64 << 20
"""More is never read at once; a damaged index may ask for it."""

VECTOR = 512
"""Buffers in one write; Linux takes 1,024."""

Bytes = bytes | bytearray | memoryview

sync_data = getattr(os, "fdatasync", os.fsync)
"""Makes the bytes of an open file durable. macOS has only the stronger call."""


class Place(NamedTuple):
    """Where a chunk lies. A tuple, which costs less to make: a gigabyte has 55,000."""

    pack: str
    offset: int
    length: int


class PackWriter:
    """Appends to packs of its own. Not thread-safe: the store holds a lock."""

    def __init__(self, folder: Path, writers: Path, pack_bytes: int = PACK_BYTES) -> None:
        """Writes below a folder, and names in `writers` the pack that is written now: what a killed
        writer leaves in it is looked for by who opens the store next."""
        self._folder = folder
        self._writers = writers
        self._pack_bytes = pack_bytes
        self._writer = os.urandom(8).hex()
        self._number = 0
        self._open: _OpenPack | None = None
        self._lost: set[str] = set()

    def rest(self, before: float) -> None:
        """Ends the pack that is written now, durably, if nothing was written since a moment."""
        if self._open and os.fstat(self._open.fd).st_mtime < before:
            self._sync_open()
            self.close()

    def append(self, chunks: Sequence[tuple[Digest, Bytes]]) -> list[Place]:
        """Where each chunk was written. Promises nothing before `sync`."""
        places: list[Place] = []
        for begin in range(0, len(chunks), MOST_CHUNKS):
            places += self._append(chunks[begin : begin + MOST_CHUNKS])
        return places

    def _append(self, chunks: Sequence[tuple[Digest, Bytes]]) -> list[Place]:
        pack = self._room()
        head = header([(digest, len(data)) for digest, data in chunks])
        at = pack.end + len(head)
        places: list[Place] = []
        for _, data in chunks:
            places.append(Place(pack.name, at, len(data)))
            at += len(data)
        try:
            _write_all(pack.fd, [head, *(data for _, data in chunks)], pack.end)
        except OSError as error:
            raise trouble(error, self._folder) from error
        pack.end = at
        return places

    def sync(self, packs: set[str]) -> None:
        """Returns once everything appended to these packs survives a loss of power.

        Raises:
            Busy: The disk is full.
            Refused: The disk does not take the bytes, now or at an earlier sync of one of them.
        """
        if self._open and self._open.name in packs:
            self._sync_open()
        if packs & self._lost:
            raise Refused(
                f"The disk did not keep chunks below {self._folder}.",
                "An earlier write to it failed.",
                "Check the disk, then send them again.",
            )

    def close(self) -> None:
        """Closes the open pack, which is removed if nothing was ever written to it."""
        if self._open:
            pack, self._open = self._open, None
            # A disk that fails leaves them to who tidies up.
            with suppress(OSError):
                if pack.end == 0:
                    (self._folder / pack.name).unlink()
                (self._writers / pack.name).unlink()
            os.close(pack.fd)

    def _room(self) -> "_OpenPack":
        if self._open and self._open.end >= self._pack_bytes:
            self._sync_open()
            self.close()
        if self._open is None:
            name = f"{self._writer}-{self._number:06}.pack"
            self._number += 1
            try:
                self._open = _OpenPack(name, _create(self._folder / name))
                (self._writers / name).touch(mode=0o600)
            except OSError as error:
                raise trouble(error, self._folder) from error
        return self._open

    def _sync_open(self) -> None:
        pack = self._open
        assert pack is not None
        try:
            sync_data(pack.fd)
            if not pack.known:
                sync_folder(self._folder)
                pack.known = True
        except OSError as error:
            self._lost.add(pack.name)
            with suppress(OSError):
                (self._writers / pack.name).unlink()
            os.close(pack.fd)
            self._open = None
            raise trouble(error, self._folder) from error


@dataclass(slots=True)
class _OpenPack:
    """The pack that is written now; `known` once its name is durable."""

    name: str
    fd: int
    end: int = 0
    known: bool = False


class PackReader:
    """Reads from packs of any writer. Thread-safe."""

    def __init__(self, folder: Path, open_packs: int = OPEN_PACKS) -> None:
        self._folder = folder
        self._open_packs = open_packs
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()

    def read(self, pack: str, offset: int, length: int) -> bytes:
        """Bytes of a pack, unverified.

        Raises:
            Damaged: They are not all there or the disk has lost them.
            Refused: They cannot be read now, as with too many open files.
        """
        if not 0 <= length <= LONGEST_READ_BYTES:
            raise Damaged("The index names a chunk that cannot be.", f"It has {length:,} bytes.")
        try:
            data = os.pread(self._file(pack).fd, length, offset)
        except ValueError as error:
            raise Damaged("The index names a pack that cannot be.", str(error)) from error
        except OSError as error:
            lost = error.errno in (errno.EIO, errno.ENOENT, errno.EINVAL)
            kind = Damaged if lost else Refused
            raise kind(f"The pack {self._folder / pack} cannot be read.", str(error)) from error
        if len(data) != length:
            raise Damaged(
                f"The pack {self._folder / pack} is too short.",
                f"{len(data)} of {length} bytes at {offset}.",
            )
        return data

    def close(self) -> None:
        """Lets go of all files."""
        with self._lock:
            self._files.clear()

    def forget(self, pack: str) -> None:
        """Lets go of a pack that is gone, whose room the disk gets back then."""
        with self._lock:
            self._files.pop(pack, None)

    def _file(self, pack: str) -> "_File":
        with self._lock:
            file = self._files.pop(pack, None)
            if file is None:
                file = _File(self._folder / pack)
            self._files[pack] = file
            if len(self._files) > self._open_packs:
                self._files.popitem(last=False)
            return file


class _File:
    """A descriptor that is closed when the last reader lets go of it, not when the table does."""

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _create(path: Path) -> int:
    """A new pack, locked by this process until it is closed."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        os.close(file)
        raise
    return file


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, chunks: Sequence[Bytes], offset: int) -> None:
    """Writes the chunks side by side, going on after short writes."""
    for begin in range(0, len(chunks), VECTOR):
        part = chunks[begin : begin + VECTOR]
        size = sum(len(chunk) for chunk in part)
        done = os.pwritev(fd, part, offset)
        if done < size:
            rest = memoryview(b"".join(part))
            while done < size:
                done += os.pwrite(fd, rest[done:], offset + done)
        offset += size
