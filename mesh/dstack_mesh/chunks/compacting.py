"""Gives back the room of packs: removes those that nothing refers to, writes again those of which
little is alive, joins small ones, and cuts what a writer left that died.

Only packs that nobody writes and nobody has written to since the horizon are touched: rows that
name the end of a pack may still be on their way.
"""

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from dstack_mesh.chunks.index import Use
from dstack_mesh.chunks.packs import Place
from dstack_mesh.chunks.room import check_room
from dstack_mesh.chunks.sessions import horizon
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Busy, Damaged, Missing
from dstack_mesh.ids import Digest

LIVE_SHARE = 0.5
"""A pack of which less is alive is written again. More: less waste; less: fewer writes."""

SMALL_PART = 16
"""A pack of less than this part of a full one is small. Each command that brings something leaves
one."""

MOST_SMALL = 32
"""So many small packs are left alone; more are joined."""

WRITE_BYTES = 4 << 20

NOTHING = Use(0, 0, 0)


def tidy_packs(store: ChunkStore, before: float, pace: Callable[[], None]) -> int:
    """Gives back what can be; how many packs went.

    Args:
        before: Packs that were written to since then are left alone.
        pace: Called between small pieces of work.
    """
    store.rest(before)
    uses = store.index.uses()
    packs = sorted(store.packs.iterdir(), key=lambda pack: uses.get(pack.name, NOTHING).bytes)
    small = [path for path in packs if _is_small(store, path, uses)]
    joined = set(small if len(small) > MOST_SMALL else ())
    gone = 0
    # Packs that cost nothing to remove come first: they make room for the others.
    for path in packs:
        pace()
        with suppress(FileNotFoundError), _untouched(path, before) as size:
            if size is not None:
                use = uses.get(path.name, NOTHING)
                again = path in joined or use.bytes < size * LIVE_SHARE
                gone += again and _empty(store, path, use, pace)
                if not again and size > use.end:
                    os.truncate(path, use.end)
    return gone


def _is_small(store: ChunkStore, path: Path, uses: dict[str, Use]) -> bool:
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        return uses.get(path.name, NOTHING).chunks > 0 and size < store.pack_bytes // SMALL_PART
    return False


def rewrite(store: ChunkStore, name: str, pace: Callable[[], None]) -> None:
    """Writes a pack again of which a header is damaged, so that an index can be made from it."""
    path = store.packs / name
    before = horizon(store.sessions, store.grace_seconds)
    use = store.index.uses().get(name)
    with suppress(FileNotFoundError), _untouched(path, before) as size:
        if size is not None and use is not None:
            _empty(store, path, use, pace)


@contextmanager
def _untouched(path: Path, before: float) -> Generator[int | None]:
    """The size of a pack while nobody writes it; None if somebody does or did lately."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        state = os.fstat(file)
        yield state.st_size if state.st_mtime < before else None
    except BlockingIOError:
        yield None
    finally:
        os.close(file)


def _empty(store: ChunkStore, path: Path, use: Use, pace: Callable[[], None]) -> bool:
    """Brings what is alive in a pack into another and removes it; False if there is no room."""
    try:
        check_room(store.folder, use.bytes)
    except Busy:
        return False
    if use.chunks:
        _bring_out(store, path, pace)
    return _drop(store, path.name)


def _bring_out(store: ChunkStore, path: Path, pace: Callable[[], None]) -> None:
    moved: list[tuple[Digest, Place, Place]] = []
    waiting: list[tuple[Digest, Place, bytes]] = []
    for row in store.index.rows_of(path.name):
        with suppress(Damaged, Missing):
            waiting.append((*row, store.verify(*row)))
        if sum(len(data) for _, _, data in waiting) >= WRITE_BYTES:
            moved += _append(store, waiting)
            waiting = []
            pace()
    moved += _append(store, waiting)
    store.sync({new.pack for _, _, new in moved})
    store.index.move(moved)


def _append(
    store: ChunkStore, chunks: list[tuple[Digest, Place, bytes]]
) -> list[tuple[Digest, Place, Place]]:
    places = store.write([(digest, data) for digest, _, data in chunks])
    return [(digest, old, new) for (digest, old, _), new in zip(chunks, places, strict=True)]


def _drop(store: ChunkStore, name: str) -> bool:
    """Removes a pack unless the index names it, as after a repair that came in between."""
    if not store.index.forget_pack(name):
        return False
    store.drop_pack(name)
    return True
