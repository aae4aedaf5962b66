"""A large file has many chunks: what is held for each is little."""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.packs import Place
from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore

CHUNKS = 80_000
FORM_BYTES = 36
"""What a chunk takes in a list of files."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    made = ChunkStore(tmp_path / "store")
    yield made
    made.close()


@pytest.fixture(scope="module")
def encoded() -> bytes:
    dice = random.Random(5)
    sizes = tuple(dice.randint(8 << 10, 64 << 10) for _ in range(CHUNKS))
    return Manifest([FileEntry("large", sizes, dice.randbytes(32 * CHUNKS))]).encode()


def bytes_a_chunk(work: Callable[[], object]) -> float:
    """The most that was held at a time, beyond what was there before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / CHUNKS
    finally:
        tracemalloc.stop()


def test_a_list_is_kept_without_a_table_of_its_chunks(store: ChunkStore, encoded: bytes) -> None:
    sizes = Manifest.decode(encoded).chunk_sizes()
    store.index.add([(chunk, Place("pack", 0, size)) for chunk, size in sizes.items()])
    assert bytes_a_chunk(lambda: store.put_manifest(encoded)) < 6 * FORM_BYTES


def test_what_a_fetch_plans_is_little(tmp_path: Path, encoded: bytes) -> None:
    manifest = Manifest.decode(encoded)
    receivers: list[Receiver] = []
    try:
        plan = bytes_a_chunk(lambda: receivers.append(Receiver(manifest, tmp_path / "target")))
    finally:
        for receiver in receivers:
            receiver.close()
    assert plan < 5 * FORM_BYTES
