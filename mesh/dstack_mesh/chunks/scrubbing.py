"""Reads everything that a store holds, slowly, and mends what is damaged.

How far it has come is on disk, so that an agent that starts anew goes on there. A pass begins with
the index and the manifests, then goes through the packs by name, and ends with another try to bring
what was found damaged before.
"""

import json
import os
from collections.abc import Iterator
from itertools import groupby

from dstack_mesh.chunks.compacting import rewrite
from dstack_mesh.chunks.frames import Hole, read_frames
from dstack_mesh.chunks.packs import Place
from dstack_mesh.chunks.store import RUN_BYTES, ChunkStore
from dstack_mesh.faults import Damaged, MeshError, Missing
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest

CURSOR = "scrub"

CURSOR_BYTES = 64 << 20
"""How often the place is written down. Less: less is read again; more: fewer syncs."""


@frozen
class Scrubbed:
    """A piece of a pass, or several together.

    Attributes:
        damaged: Chunks and manifests whose bytes were wrong.
        mended: Those of them, or of earlier ones, that came again from elsewhere.
        index_damaged: The index is made again when the store is opened next.
    """

    size_bytes: int = 0
    chunks: int = 0
    manifests: int = 0
    damaged: int = 0
    mended: int = 0
    index_damaged: bool = False

    def __add__(self, other: "Scrubbed") -> "Scrubbed":
        return Scrubbed(
            self.size_bytes + other.size_bytes,
            self.chunks + other.chunks,
            self.manifests + other.manifests,
            self.damaged + other.damaged,
            self.mended + other.mended,
            self.index_damaged or other.index_damaged,
        )


def scrub(store: ChunkStore, anew: bool = False) -> Iterator[Scrubbed]:
    """One pass, or what is left of the one that was begun; a piece of at most 1 MiB each time.

    Args:
        anew: Whether to begin at the beginning in any case.
    """
    pack, offset = ("", -1) if anew else _read_cursor(store)
    if not pack:
        yield Scrubbed(index_damaged=not store.index.is_whole())
        yield from _manifests(store)
    unsaved = 0
    for name in sorted(store.index.uses()):
        if name < pack:
            continue
        after = offset if name == pack else -1
        for piece, at in _pack(store, name, after):
            unsaved += piece.size_bytes
            if unsaved >= CURSOR_BYTES:
                store.index.put_cursor(CURSOR, json.dumps([name, at]))
                unsaved = 0
            yield piece
    yield from _once_more(store)
    store.index.put_cursor(CURSOR, "")


def _read_cursor(store: ChunkStore) -> tuple[str, int]:
    text = store.index.cursor(CURSOR)
    if not text:
        return "", -1
    name, at = json.loads(text)
    return str(name), int(at)


def _manifests(store: ChunkStore) -> Iterator[Scrubbed]:
    for digest, _ in store.shelf.all():
        try:
            encoded = store.shelf.read(digest)
            yield Scrubbed(len(encoded), manifests=1)
        except Missing:
            continue
        except Damaged:
            yield Scrubbed(
                manifests=1, damaged=1, mended=int(store.mend_manifest(digest) is not None)
            )


def _pack(store: ChunkStore, name: str, after: int) -> Iterator[tuple[Scrubbed, int]]:
    """The chunks of a pack in runs, and how far that is."""
    _read_from_disk(store, name)
    for run in _runs(store.index.rows_of(name, after)):
        damaged = store.damaged_among(run)
        mended = 0
        for digest, place in damaged:
            try:
                store.verify(digest, place)
                mended += 1
            except MeshError:
                pass
        size = sum(place.length for _, place in run)
        piece = Scrubbed(size, len(run), damaged=len(damaged), mended=mended)
        yield piece, run[-1][1].offset
    if _has_holes(store, name):
        rewrite(store, name, lambda: None)


def _runs(rows: Iterator[tuple[Digest, Place]]) -> Iterator[list[tuple[Digest, Place]]]:
    """Rows that lie side by side, read together."""
    begin = end = number = 0

    def run_of(row: tuple[Digest, Place]) -> int:
        nonlocal begin, end, number
        place = row[1]
        if place.offset != end or place.offset + place.length - begin > RUN_BYTES:
            begin, number = place.offset, number + 1
        end = place.offset + place.length
        return number

    for _, run in groupby(rows, run_of):
        yield list(run)


def _has_holes(store: ChunkStore, name: str) -> bool:
    """Whether the pack does not say of all its chunks what they are. A torn tail does not count."""
    try:
        parts = [part for part in read_frames(store.packs / name) if isinstance(part, Hole)]
        return any(part.end < (store.packs / name).stat().st_size for part in parts)
    except OSError:
        return False


def _read_from_disk(store: ChunkStore, name: str) -> None:
    """Has the kernel drop what it remembers of a pack: the disk is to be read."""
    try:
        file = os.open(store.packs / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _once_more(store: ChunkStore) -> Iterator[Scrubbed]:
    for digest in store.index.quarantined():
        if store.missing([digest]):
            yield Scrubbed(mended=int(store.mend(digest) is not None))
