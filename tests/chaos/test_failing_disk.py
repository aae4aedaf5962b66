"""A disk that is full or breaks at any operation: nothing is acknowledged that is not there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.collecting import Collector, Rules
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Digest
from support.faulty_folder import FaultyFolder, faulty_folder
from support.power import fuse_lacking
from support.rounds import rounds, seeded

STEP = 5
"""Every how many operations one fails, in the check; with `DSTACK_CHAOS_ROUNDS` each."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[FaultyFolder]:
    reason = fuse_lacking()
    if reason:
        pytest.skip(reason)
    with faulty_folder(tmp_path) as served:
        yield served


class Life:
    """What a store is asked to do, and what it said was done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self.chunks: dict[Digest, bytes] = {}
        self.trees: set[Digest] = set()

    def live(self) -> None:
        """One life. Raises MeshError where the disk fails."""
        store = ChunkStore(self._path, pack_bytes=8000, grace_seconds=0)
        try:
            for _ in range(2):
                self._number += 1
                data = [(b"%d-%d" % (self._number, n)) * 300 for n in range(4)]
                made = {digest_of(one): one for one in data}
                store.put(made.items())
                self.chunks |= made
                entries = (FileEntry(d.hex(), (len(one),), d) for d, one in made.items())
                self.trees.add(store.put_manifest(Manifest(entries).encode()))
                store.keep(next(iter(self.trees)), "run-1")
            Collector(store, lambda: set(self.trees), Rules(unused_seconds=0)).collect()
        finally:
            store.close()

    def check(self) -> None:
        """Everything that was acknowledged and named as needed is there."""
        store = ChunkStore(self._path, grace_seconds=0)
        for digest in self.trees:
            manifest = store.get_manifest(digest)
            for chunk, data in store.read(manifest.chunk_digests()):
                assert self.chunks[chunk] == data
        store.close()


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("always", [False, True])
def test_no_failure_at_any_operation_loses_what_was_acknowledged(
    folder: FaultyFolder, kind: str, always: bool
) -> None:
    dice = seeded(f"{kind} {always}")
    life = Life(folder.path / "chunks")
    life.live()
    step = STEP if rounds(0) == 0 else 1
    number = dice.randrange(step) + 1
    said = silent = 0
    while True:
        folder.fail(kind, number, always)
        try:
            life.live()
            silent += 1
        except MeshError:
            said += 1
        failed = folder.failed()
        folder.heal()
        life.check()
        life.live()
        if not failed:
            break
        number += step
    print(f"{kind}: {said} failures said, {silent} of no consequence, to operation {number}")
    assert said > 3
