"""Reads from a file that is about to be replaced what the new one has in common with it.

A file that was laid is remembered with its chunks (`cache`), so only what is common is read; any
other is cut as one that is saved. Nothing is believed: each chunk is verified after it was read,
and what is not the same any more is left to others to bring.
"""

import os
import stat
from collections.abc import Callable, Iterator

from dstack_mesh.chunks.cache import Cut, FileCache
from dstack_mesh.chunks.digest import digest_of, each_digest
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.reading import OPEN_TO_READ, cut_blocks_of, stamp_of
from dstack_mesh.ids import Digest

LEAST_BYTES = 1 << 20
"""A smaller file that nobody remembers is not worth being cut."""

RUN_BYTES = 1 << 20
"""So much is read at once."""

Claim = Callable[[Digest, int], bool]
"""Whether a chunk of this size is wanted; once it said so, it is not wanted again."""

Run = tuple[list[Digest], memoryview]
"""Chunks side by side, valid until the next are asked for."""


def former_chunks(
    folders: Folders, path: str, cache: FileCache | None, claim: Claim
) -> Iterator[Run]:
    """Verified chunks of the file at a path that are wanted; none if it cannot be read."""
    folder, name = split(path)
    try:
        handle = folders.enter(folder)
        # A device is not even opened: opening a tape or a watchdog does things.
        if not stat.S_ISREG(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
            return
        file = os.open(name, OPEN_TO_READ, dir_fd=handle)
    except OSError:
        return
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            return
        stamp = stamp_of(state)
        cut = cache.find([stamp]).get(stamp) if cache else None
        if cut:
            yield from _remembered(file, cut, claim)
        elif stamp.size >= LEAST_BYTES:
            yield from _cut_anew(file, stamp.size, claim)
    except OSError:
        return
    finally:
        os.close(file)


def _remembered(file: int, cut: Cut, claim: Claim) -> Iterator[Run]:
    for offset, chunks in _side_by_side(cut, claim):
        data = memoryview(os.pread(file, sum(size for _, size in chunks), offset))
        at = 0
        same: list[tuple[Digest, memoryview]] = []
        for digest, size in chunks:
            piece = data[at : at + size]
            if digest_of(piece) == digest:
                same.append((digest, piece))
            at += size
        if len(same) == len(chunks):
            yield [digest for digest, _ in same], data
        else:
            yield from (([digest], piece) for digest, piece in same)


def _side_by_side(cut: Cut, claim: Claim) -> Iterator[tuple[int, list[tuple[Digest, int]]]]:
    """Runs of wanted chunks and where each begins."""
    run: list[tuple[Digest, int]] = []
    begin = at = 0
    for digest, size in zip(each_digest(cut.digests), cut.sizes, strict=True):
        common = claim(digest, size)
        if run and (not common or at + size - begin > RUN_BYTES):
            yield begin, run
            run = []
        if common:
            if not run:
                begin = at
            run.append((digest, size))
        at += size
    if run:
        yield begin, run


def _cut_anew(file: int, size: int, claim: Claim) -> Iterator[Run]:
    for chunks in cut_blocks_of(file, size):
        for chunk in chunks:
            digest = digest_of(chunk)
            if claim(digest, len(chunk)):
                yield [digest], chunk
