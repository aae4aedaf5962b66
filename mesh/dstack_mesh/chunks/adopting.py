"""Takes over what a killed writer had written and not committed, so that it need not travel again.

A kill leaves the bytes in the kernel. The chunks behind the last row of such a pack are verified,
made durable and named; a torn tail is left to be cut.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.frames import Hole, read_frames
from dstack_mesh.chunks.index import Index
from dstack_mesh.chunks.packs import Place, sync_data, sync_folder
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.ids import Digest

_ROWS = 4096


def adopt_tails(packs: Path, writers: Path, index: Index) -> None:
    """Takes over the packs that are named below `writers` and that nobody writes.

    A disk that is full or fails is no reason not to open a store: it is tried again next time.
    """
    for marker in list(writers.iterdir()):
        with suppress(OSError, MeshError):
            file = os.open(packs / marker.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _adopt(packs / marker.name, index)
                marker.unlink(missing_ok=True)
            finally:
                os.close(file)


def _adopt(pack: Path, index: Index) -> None:
    known = index.uses().get(pack.name)
    found = verified_chunks(pack, known.end if known else 0)
    whole = (row for row in found if not isinstance(row, Hole))
    rows = ((digest, place) for digest, place in whole if place is not None)
    sync_folder(pack.parent)
    while batch := list(islice(rows, _ROWS)):
        index.add(batch)


def verified_chunks(pack: Path, begin: int = 0) -> Iterator[Hole | tuple[Digest, Place | None]]:
    """What a pack holds from an offset on, each chunk verified: its place, or None if it is
    damaged. Its bytes are durable before the first is named."""
    try:
        file = os.open(pack, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"The pack {pack} cannot be read.", str(error)) from error
    try:
        sync_data(file)
        for part in read_frames(pack, begin):
            if isinstance(part, Hole):
                yield part
                continue
            for digest, offset, length in part.chunks:
                try:
                    whole = digest_of(os.pread(file, length, offset)) == digest
                except OSError:
                    whole = False
                yield digest, Place(pack.name, offset, length) if whole else None
    except OSError as error:
        raise Refused(f"The pack {pack} cannot be read.", str(error)) from error
    finally:
        os.close(file)
