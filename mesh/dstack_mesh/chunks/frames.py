"""Frames: what a pack says of itself, so that an index that is lost can be made again.

What is appended at once is one frame: a header with the digest and size of each chunk, then the
chunks side by side. A header carries a checksum. Where one is damaged the next one is looked for,
so a bad sector costs at most the frames it touches; bytes that look like a header and are none do
no harm, for every chunk is verified by its digest.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dstack_mesh.chunks.digest import DIGEST_BYTES
from dstack_mesh.ids import Digest

MAGIC = b"\x93chunks\n"

MOST_CHUNKS = 4096
"""Chunks of one frame. More: longer writes; fewer: more headers where files are tiny."""

_COUNTS = struct.Struct("<II")
_HEAD_BYTES = len(MAGIC) + _COUNTS.size
_ROW = struct.Struct(f"<{DIGEST_BYTES}sI")
_WINDOW_BYTES = 1 << 20


class Lying(NamedTuple):
    """A chunk as a frame names it; its bytes may be damaged."""

    digest: Digest
    offset: int
    length: int


class Frame(NamedTuple):
    """What was appended at once; `end` is behind its last chunk."""

    chunks: tuple[Lying, ...]
    end: int


class Hole(NamedTuple):
    """Bytes that are no whole frame: a damaged header and what it described, or a torn tail."""

    begin: int
    end: int


def header(chunks: Sequence[tuple[Digest, int]]) -> bytes:
    """What goes before chunks of these digests and sizes, at most `MOST_CHUNKS`."""
    table = b"".join(_ROW.pack(digest, length) for digest, length in chunks)
    return MAGIC + _COUNTS.pack(len(chunks), zlib.crc32(table, len(chunks))) + table


def read_frames(path: Path, begin: int = 0) -> Iterator[Frame | Hole]:
    """The frames of a pack in order, from an offset where one begins.

    Raises:
        OSError: The pack cannot be opened. What the disk has lost of it is a hole.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        at = begin
        while at < size:
            frame = _frame(file, at, size)
            if frame is None:
                following = _following(file, at + 1, size)
                yield Hole(at, following)
                at = following
            else:
                yield frame
                at = frame.end
    finally:
        os.close(file)


def _following(file: int, at: int, size: int) -> int:
    """Where the next frame begins; the size if there is none."""
    while at < size:
        window = _read(file, at, _WINDOW_BYTES)
        found = window.find(MAGIC)
        while found >= 0:
            if _frame(file, at + found, size) is not None:
                return at + found
            found = window.find(MAGIC, found + 1)
        at += _WINDOW_BYTES - len(MAGIC) + 1
    return size


def _frame(file: int, at: int, size: int) -> Frame | None:
    """The frame that begins there; None if none does, or nothing of it is there."""
    head = _read(file, at, _HEAD_BYTES)
    if len(head) < _HEAD_BYTES or not head.startswith(MAGIC):
        return None
    count, checksum = _COUNTS.unpack_from(head, len(MAGIC))
    if not 0 < count <= MOST_CHUNKS:
        return None
    table = _read(file, at + _HEAD_BYTES, count * _ROW.size)
    if len(table) < count * _ROW.size or zlib.crc32(table, count) != checksum:
        return None
    offset = at + _HEAD_BYTES + len(table)
    chunks: list[Lying] = []
    for digest, length in _ROW.iter_unpack(table):
        if offset + length > size:  # torn: what follows was never promised
            return Frame(tuple(chunks), size) if chunks else None
        chunks.append(Lying(Digest(digest), offset, length))
        offset += length
    return Frame(tuple(chunks), offset)


def _read(file: int, at: int, length: int) -> bytes:
    """Bytes of a pack; nothing where the disk has lost them."""
    try:
        return os.pread(file, length, at)
    except OSError:
        return b""
