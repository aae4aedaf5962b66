"""Power is lost at any moment of a store's life; whatever was acknowledged before is there.

`DSTACK_CHAOS_ROUNDS` counts the cuts.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.collecting import Collector, Rules
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.ids import Digest
from support.power import Recording, needs_power_lab
from support.rounds import rounds, seeded

CUTS = 12
TREES = 60


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    needs_power_lab()
    yield Recording(tmp_path)


def tree(number: int) -> tuple[Manifest, list[bytes]]:
    dice = random.Random(number)
    files = [dice.randbytes(dice.randint(1, 20_000)) for _ in range(6)]
    entries = (FileEntry(f"{n}", (len(data),), digest_of(data)) for n, data in enumerate(files))
    return Manifest(entries), files


def live(store: ChunkStore, recording: Recording) -> tuple[dict[Digest, int], dict[Digest, int]]:
    """The life of a store; when each tree was acknowledged, and when some were allowed to go."""
    acknowledged: dict[Digest, int] = {}
    released: dict[Digest, int] = {}
    for number in range(TREES):
        manifest, files = tree(number)
        store.put((digest_of(data), data) for data in files)
        digest = store.put_manifest(manifest.encode())
        acknowledged[digest] = recording.position()
        if number % 3 == 0:
            store.keep(digest, f"run-{number}")
        if number % 20 == 19:
            kept = set(acknowledged) - set(list(acknowledged)[: number // 2])
            going = set(acknowledged) - kept - set(released)
            released |= dict.fromkeys(going, recording.position())
            Collector(store, lambda kept=kept: kept, Rules(unused_seconds=0)).collect()
    return acknowledged, released


def test_what_was_acknowledged_survives_any_loss_of_power(recording: Recording) -> None:
    dice = seeded("power cuts of a store")
    with recording.mounted() as folder:
        store = ChunkStore(folder / "chunks", pack_bytes=200_000, grace_seconds=0)
        acknowledged, released = live(store, recording)
        store.close()
    checked = 0
    for cut in recording.cuts(dice, rounds(CUTS)):
        with recording.after(cut, dice) as folder:
            if not (folder / "chunks").exists():
                assert not any(at <= cut for at in acknowledged.values())
                continue
            store = ChunkStore(folder / "chunks", grace_seconds=0)
            for digest, at in acknowledged.items():
                if at <= cut and not released.get(digest, cut + 1) <= cut:
                    manifest = store.get_manifest(digest)
                    for _ in store.read(manifest.chunk_digests()):
                        checked += 1
            _goes_on(store)
            store.close()
    print(f"{checked:,} chunks read after {rounds(CUTS):,} cuts")
    assert checked


def _goes_on(store: ChunkStore) -> None:
    """The store that was found is one that can be written to."""
    manifest, files = tree(1_000_000)
    store.put((digest_of(data), data) for data in files)
    digest = store.put_manifest(manifest.encode())
    for _ in store.read(store.get_manifest(digest).chunk_digests()):
        pass


def test_files_that_are_renamed_without_a_sync_are_found_torn(recording: Recording) -> None:
    """The negative control: the lab sees what a careless writer loses."""
    dice = seeded("power cuts of a careless writer")
    content = b"whole" * 4000
    acknowledged: dict[str, int] = {}
    with recording.mounted() as folder:
        for number in range(30):
            draft = folder / "draft"
            draft.write_bytes(content)
            draft.rename(folder / f"{number}")
            acknowledged[f"{number}"] = recording.position()
            if number % 10 == 9:
                os.sync()
    torn = 0
    for cut in recording.cuts(dice, 20):
        with recording.after(cut, dice) as folder:
            for name, at in acknowledged.items():
                if at <= cut:
                    path = folder / name
                    torn += not path.exists() or path.read_bytes() != content
    assert torn
