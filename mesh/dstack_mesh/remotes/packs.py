"""Which chunks lie together in a pack of a remote, and the list of them that is its index.

Rules: a pack is cut where its chunks say so, as a file is cut where its bytes say so. The same
chunks in the same order therefore make the same packs, on whatever machine: a push that broke off
and is begun again, or two pushes of one tree, send no pack twice. A pack's name is the BLAKE3 of
its index, which names every byte of it.

The sizes: effect, how many objects a remote has, and how much is sent again after a break; formula,
a pack is 8 MiB and then ends with every chunk by chance, its size over 8 MiB, so 16 MiB on average;
trade-off, larger ones are fewer requests, smaller ones are less to send again.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dstack_mesh.chunks.digest import DIGEST_BYTES, digest_of
from dstack_mesh.chunks.manifest import CHUNK_BYTES
from dstack_mesh.faults import Damaged
from dstack_mesh.ids import Digest

LEAST_BYTES = 8 << 20
SPREAD_BYTES = 8 << 20
MOST_BYTES = 32 << 20

MAGIC = b"dstack-pack-1\n"

Sized = tuple[Digest, int]
"""A chunk and its size in bytes."""

_ROW = struct.Struct(f"<{DIGEST_BYTES}sI")


@dataclass(frozen=True, slots=True)
class PackIndex:
    """The chunks of a pack in the order in which they lie."""

    chunks: tuple[Sized, ...]

    @property
    def size_bytes(self) -> int:
        """Length of the pack."""
        return sum(size for _, size in self.chunks)

    @property
    def name(self) -> Digest:
        """The pack's name."""
        return digest_of(self.encode())

    def encode(self) -> bytes:
        """The index as it is kept."""
        return MAGIC + b"".join(_ROW.pack(*chunk) for chunk in self.chunks)

    @classmethod
    def decode(cls, name: Digest, encoded: bytes) -> "PackIndex":
        """The index of a pack. Bytes from anywhere.

        Raises:
            Damaged: They are not what is called by that name.
        """
        rows = encoded[len(MAGIC) :]
        if digest_of(encoded) != name or not encoded.startswith(MAGIC) or len(rows) % _ROW.size:
            raise _damaged(name, "its bytes are not what the name says")
        chunks = tuple((Digest(digest), size) for digest, size in _ROW.iter_unpack(rows))
        if any(not 0 < size <= CHUNK_BYTES for _, size in chunks):
            raise _damaged(name, f"it has a chunk that is empty or larger than {CHUNK_BYTES:,}")
        return cls(chunks)


def cut(chunks: Iterable[Sized]) -> Iterator[PackIndex]:
    """Packs for chunks, each of which comes once."""
    waiting: list[Sized] = []
    size_bytes = 0
    for digest, size in chunks:
        if waiting and size_bytes + size > MOST_BYTES:
            yield PackIndex(tuple(waiting))
            waiting, size_bytes = [], 0
        waiting.append((digest, size))
        size_bytes += size
        if size_bytes >= LEAST_BYTES and _ends_here(digest, size):
            yield PackIndex(tuple(waiting))
            waiting, size_bytes = [], 0
    if waiting:
        yield PackIndex(tuple(waiting))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk lies in a remote."""

    pack: Digest
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a pack that is read at once, and the chunks in it that are wanted.

    Attributes:
        chunks: Each with its place; other bytes may lie between them.
    """

    pack: Digest
    begin: int
    end: int
    chunks: tuple[tuple[Digest, Place], ...]


def spans(wanted: Iterable[tuple[Digest, Place]], longest: int, gap: int) -> Iterator[Span]:
    """What to read, in the order in which the chunks are wanted.

    Args:
        longest: Bytes of a span at most, unless one chunk is longer.
        gap: So many bytes that nobody wants are read rather than asking once more.
    """
    run: list[tuple[Digest, Place]] = []
    for digest, place in wanted:
        if run and not _goes_on(run, place, longest, gap):
            yield _span(run)
            run = []
        run.append((digest, place))
    if run:
        yield _span(run)


def _goes_on(run: Sequence[tuple[Digest, Place]], place: Place, longest: int, gap: int) -> bool:
    first, last = run[0][1], run[-1][1]
    between = place.offset - (last.offset + last.length)
    return (
        place.pack == last.pack
        and 0 <= between <= gap
        and place.offset + place.length - first.offset <= longest
    )


def _span(run: Sequence[tuple[Digest, Place]]) -> Span:
    first, last = run[0][1], run[-1][1]
    return Span(first.pack, first.offset, last.offset + last.length, tuple(run))


def _ends_here(digest: Digest, size: int) -> bool:
    """By chance that the chunk alone decides, so that it falls alike everywhere."""
    return int.from_bytes(digest[:4], "little") * SPREAD_BYTES < size << 32


def _damaged(name: Digest, why: str) -> Damaged:
    return Damaged(
        "The list of a pack in the remote is damaged.",
        f"indexes/{name.hex()}: {why}.",
        "dstack push --again RUN, from a machine that has the run's bytes",
        code="remote-damaged",
    )
