"""What a file that is replaced has in common with the new one is not brought again."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.chunks.cache import Cut
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.reading import stamp_of
from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Damaged

MIB = 1 << 20
SIZE = 3 * MIB


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    made = ChunkStore(tmp_path / "store")
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def noise(size: int = SIZE, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def lay(store: ChunkStore, target: Path, *contents: bytes, remembers: bool = True) -> int:
    """Lays files 0, 1, … out; how many bytes others had to bring."""
    source = store.folder.parent / "source"
    for number, content in enumerate(contents):
        source.mkdir(exist_ok=True)
        (source / f"{number}").write_bytes(content)
    manifest = store.get_manifest(save_tree(store, source).digest)
    receiver = Receiver(manifest, target, cache=store.cache if remembers else None)
    told: list[int] = []
    try:
        receiver.reuse(told.append)
        wanted = receiver.wanted
        for run, data in store.read_runs(wanted):
            receiver.take([digest for digest, _ in run], memoryview(data))
        receiver.finish(0)
        brought = receiver.wanted_bytes(wanted)
    finally:
        receiver.close()
    for number, content in enumerate(contents):
        assert (target / f"{number}").read_bytes() == content
    assert receiver.kept_bytes + sum(told) + brought <= sum(map(len, contents))
    return brought


@pytest.mark.parametrize("remembers", [True, False])
def test_an_edit_brings_the_chunks_it_touches(
    store: ChunkStore, target: Path, remembers: bool
) -> None:
    old = noise()
    assert lay(store, target, old, remembers=remembers) == SIZE
    new = noise(1000, 2) + old[:MIB] + b"other" + old[MIB:]
    assert lay(store, target, new, remembers=remembers) < 200_000
    assert lay(store, target, new[: 2 * MIB], remembers=remembers) < 100_000


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=8), st.booleans())
@settings(max_examples=12, deadline=None)
def test_whatever_changes_the_file_is_the_new_one(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]], remembers: bool
) -> None:
    """Pieces that come again, go and change places; `lay` compares what is there then."""
    folder = tmp_path_factory.mktemp("former")
    store = ChunkStore(folder / "store")
    pieces = [bytes(200_000), *(noise(200_000, seed) for seed in range(5))]
    old = b"".join(pieces[number] for number in (1, 2, 0, 3, 1, 4, 5, 2))
    lay(store, folder / "target", old, old[:MIB], remembers=remembers)
    new = b"".join(pieces[number] * times for number, times in parts)
    lay(store, folder / "target", new, new[MIB:], remembers=remembers)
    store.close()


def test_a_small_file_that_nobody_remembers_is_not_read(store: ChunkStore, target: Path) -> None:
    old = noise(MIB // 2)
    lay(store, target, old, remembers=False)
    assert lay(store, target, b"more" + old, remembers=False) == len(old) + 4


def test_what_is_remembered_and_not_so_any_more_is_brought(store: ChunkStore, target: Path) -> None:
    """As after a disk lost bits: everything says that the file is the same."""
    old = noise()
    lay(store, target, old)
    spoilt = bytearray(old)
    spoilt[MIB] ^= 1
    (target / "0").write_bytes(spoilt)
    entry = store.get_manifest(save_tree(store, store.folder.parent / "source").digest).entries[0]
    assert isinstance(entry, FileEntry)
    stamp = stamp_of((target / "0").stat())
    store.cache.remember([(stamp, Cut(entry.sizes, entry.digests))])
    assert 0 < lay(store, target, old + b"new") < 200_000


def test_a_list_that_lies_about_sizes_gets_nothing(store: ChunkStore, target: Path) -> None:
    data = noise(10_000)
    lay(store, target, data)
    digest = digest_of(data)
    lie = Manifest([FileEntry("0", (9_000,), digest)])
    receiver = Receiver(lie, target, cache=store.cache)
    try:
        receiver.reuse(lambda _: None)
        assert receiver.wanted == [digest]
        with pytest.raises(Damaged):
            receiver.take([digest], memoryview(data))
    finally:
        receiver.close()
    assert (target / "0").read_bytes() == data


def test_links_and_pipes_in_its_place_are_not_followed(
    store: ChunkStore, target: Path, tmp_path: Path
) -> None:
    old = noise()
    lay(store, target, old)
    (target / "0").rename(tmp_path / "outside")
    (target / "0").symlink_to(tmp_path / "outside")
    assert lay(store, target, old) == SIZE
    (target / "0").unlink()
    os.mkfifo(target / "0")
    assert lay(store, target, old) == SIZE
    assert (tmp_path / "outside").read_bytes() == old


def test_the_old_file_stays_until_the_new_one_is_whole(store: ChunkStore, target: Path) -> None:
    old = noise()
    lay(store, target, old)
    source = store.folder.parent / "source"
    (source / "0").write_bytes(old + noise(MIB, 3))
    manifest = store.get_manifest(save_tree(store, source).digest)
    receiver = Receiver(manifest, target, cache=store.cache)
    receiver.reuse(lambda _: None)
    assert list(receiver.rescued()) == []  # it is there to be used again
    receiver.close()
    assert [path.name for path in target.iterdir()] == ["0"]
    assert (target / "0").read_bytes() == old
