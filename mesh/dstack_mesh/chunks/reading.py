"""Reads one file of a tree that somebody else may be changing.

What is opened is checked by its handle: a link, FIFO or device that took the file's place is never
followed, waited for or read. A file that changes under the reader is read again, then taken as it
came and said to be changing.
"""

import os
import stat
from array import array
from collections.abc import Iterator

from dstack_mesh.chunks.batch import Batch
from dstack_mesh.chunks.cache import Cut, Stamp
from dstack_mesh.chunks.chunker import WHOLE_BYTES, ZEROS, cut_blocks
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.holes import HOLE, hole_at
from dstack_mesh.chunks.sizes import shared
from dstack_mesh.frozen import frozen

TRIES = 3
"""So often a file is read that changes each time. Once is enough where it is read again soon."""

OPEN_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Never through a link, and never waiting for a FIFO or device that took a file's place."""


@frozen(slots=True)
class FileRead:
    """The content of a file, whose chunks are in the batch.

    Attributes:
        stamp: As the file was when it was read.
        torn: It changed while it was read, each time it was tried.
    """

    cut: Cut
    stamp: Stamp
    executable: bool
    torn: bool


def read_file(folder: int, name: str, batch: Batch, tries: int = TRIES) -> FileRead | None:
    """The content of a regular file in a folder, or None if there is no regular file of that name.

    Raises:
        OSError: It cannot be read.
    """
    for _ in range(tries - 1):
        seen = _read_once(folder, name, batch)
        if seen is None or not seen.torn:
            return seen
    return _read_once(folder, name, batch)


def stamp_of(state: os.stat_result) -> Stamp:
    """What tells whether a file is still the same."""
    return Stamp(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def executable(state: os.stat_result) -> bool:
    """Whether its owner may run it, as git sees it."""
    return bool(state.st_mode & stat.S_IXUSR)


def _read_once(folder: int, name: str, batch: Batch) -> FileRead | None:
    # A device is not even opened: opening a tape or a watchdog does things.
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return None
    file = os.open(name, OPEN_TO_READ, dir_fd=folder)
    try:
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            return None
        cut = _cut_file(file, before.st_size, batch)
        stamp = stamp_of(os.fstat(file))
        torn = stamp != stamp_of(before) or sum(cut.sizes) != before.st_size
        return FileRead(cut, stamp, executable(before), torn)
    finally:
        os.close(file)


def _cut_file(file: int, size: int, batch: Batch) -> Cut:
    """Chunks of the first `size` bytes: a log that grows all the time has an end this way."""
    if size <= WHOLE_BYTES:
        data = os.read(file, size)
        digest = digest_of(data)
        if not data:
            return Cut((), b"")
        batch.add(digest, data)
        return Cut((len(data),), digest)

    sizes, digests = array("I"), bytearray()
    for chunks in cut_blocks_of(file, size):
        for chunk in chunks:
            digest = HOLE if chunk is ZEROS else digest_of(chunk)
            batch.add(digest, chunk)
            sizes.append(len(chunk))
            digests += digest
        # The next block overwrites these bytes.
        batch.flush()
    return Cut(shared(sizes), bytes(digests))


def cut_blocks_of(file: int, size: int) -> Iterator[list[memoryview]]:
    """The chunks of the first `size` bytes of an open file, as `cut_blocks` gives them."""

    def read_at(room: memoryview, offset: int) -> int:
        return os.preadv(file, [room[: size - offset]], offset)

    def zeros_at(offset: int) -> int:
        return hole_at(file, offset, size)

    return cut_blocks(read_at, zeros_at, size)
