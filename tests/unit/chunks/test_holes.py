"""A sparse file stays sparse on its way, costs next to nothing, and is named by its bytes alone."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack_mesh.chunks.chunker import MAX_BYTES
from dstack_mesh.chunks.holes import HOLE, HOLE_BYTES, hole_at, is_hole
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.ids import Digest

GIB = 1 << 30


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    store = ChunkStore(tmp_path / "chunks")
    yield store
    store.close()


def sparse(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    """A file of this size with bytes at some places and holes between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    return path


def blocks(path: Path) -> int:
    """Bytes that a file takes on its disk."""
    return path.stat().st_blocks * 512


def receive(store: ChunkStore, digest: Digest, target: Path, prefix: str = "") -> int:
    """Writes a tree as `dstack cp` does; bytes that had to travel."""
    receiver = Receiver(store.get_manifest(digest), target, prefix)
    try:
        wanted = receiver.wanted
        for chunk, data in store.read(wanted):
            receiver.take([chunk], data)
        receiver.finish(0)
        return receiver.wanted_bytes(wanted)
    finally:
        receiver.close()


def holds_holes(folder: Path) -> bool:
    """Whether the file system of a folder knows holes at all."""
    probe = sparse(folder / "probe", 1 << 20, {})
    return blocks(probe) < 1 << 20


@given(
    st.integers(0, 3 << 20),
    st.dictionaries(st.integers(0, 3 << 20), st.integers(1, 100_000), max_size=4),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_sparse_file_is_the_same_tree_as_one_with_its_zeros_written(
    store: ChunkStore,
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    pieces: dict[int, int],
) -> None:
    base = tmp_path_factory.mktemp("sparse")
    data = {offset: random.Random(length).randbytes(length) for offset, length in pieces.items()}
    file = sparse(base / "sparse" / "f", size, data)
    (base / "dense").mkdir()
    (base / "dense" / "f").write_bytes(file.read_bytes())
    saved = save_tree(store, base / "sparse")
    assert saved.digest == save_tree(store, base / "dense").digest
    lay_tree(store, saved.digest, base / "laid")
    receive(store, saved.digest, base / "received")
    assert (base / "laid" / "f").read_bytes() == file.read_bytes()
    assert (base / "received" / "f").read_bytes() == file.read_bytes()


def test_holes_stay_holes_on_both_sides(store: ChunkStore, tmp_path: Path) -> None:
    if not holds_holes(tmp_path):
        pytest.skip("this file system has no holes")
    piece = random.Random(1).randbytes(300_000)
    file = sparse(tmp_path / "in" / "f", 2 * GIB + 5, {12_345: piece, GIB: piece, 2 * GIB: b"end"})
    sparse(tmp_path / "in" / "hole", GIB, {})
    saved = save_tree(store, tmp_path / "in")
    lay_tree(store, saved.digest, tmp_path / "laid")
    travelled = receive(store, saved.digest, tmp_path / "received")
    for folder in ("laid", "received"):
        out = tmp_path / folder / "f"
        assert out.stat().st_size == file.stat().st_size
        assert blocks(out) <= blocks(file) + 6 * HOLE_BYTES
        assert blocks(tmp_path / folder / "hole") <= HOLE_BYTES
        assert (tmp_path / folder / "hole").stat().st_size == GIB
        with out.open("rb") as handle:
            for offset in (12_345, GIB):
                handle.seek(offset)
                assert handle.read(len(piece)) == piece
            handle.seek(2 * GIB)
            assert handle.read() == b"end\0\0"
    assert travelled < 2 * len(piece) + 8 * HOLE_BYTES
    assert store.get_manifest(saved.digest).room_bytes < travelled + len(piece) + 8 * HOLE_BYTES


def test_a_sparse_file_costs_neither_time_nor_memory_of_its_holes(tmp_path: Path) -> None:
    """20 GiB of nothing, in a process of its own, whose peak is the kernel's word.

    Not `ru_maxrss`: it counts what the process was before it became this program, the tests.
    """
    if not holds_holes(tmp_path):
        pytest.skip("this file system has no holes")
    sparse(tmp_path / "in" / "f", 20 * GIB, {7 * GIB: b"x" * 1000})
    script = (
        "import os, sys, pathlib\n"
        "from dstack_mesh.chunks.store import ChunkStore\n"
        "from dstack_mesh.chunks.tree import lay_tree, save_tree\n"
        "base = pathlib.Path(sys.argv[1]); store = ChunkStore(base / 'chunks')\n"
        "saved = save_tree(store, base / 'in')\n"
        "lay_tree(store, saved.digest, base / 'out')\n"
        "status = pathlib.Path('/proc/self/status').read_text().split()\n"
        "print(status[status.index('VmHWM:') + 1], sum(os.times()[:2]))\n"
    )
    ended = subprocess.run(
        (sys.executable, "-c", script, str(tmp_path)), check=True, capture_output=True, text=True
    )
    peak_kib, seconds = map(float, ended.stdout.split())
    print(f"peak {peak_kib / 1024:.0f} MiB, {seconds:.2f} s")
    assert peak_kib < 200 << 10
    assert seconds < 10  # reading and hashing 20 GiB takes longer than that
    assert blocks(tmp_path / "out" / "f") < 4 * HOLE_BYTES


def test_zeros_are_always_cut_alike(store: ChunkStore, tmp_path: Path) -> None:
    sparse(tmp_path / "in" / "f", 10 * MAX_BYTES, {})
    [entry] = store.get_manifest(save_tree(store, tmp_path / "in").digest).entries
    assert isinstance(entry, FileEntry)
    assert list(entry.chunks()) == [(HOLE, HOLE_BYTES)] * 10
    assert entry.hole_bytes == entry.size_bytes


def test_a_chunk_that_only_calls_itself_a_hole_is_none() -> None:
    assert is_hole(HOLE, HOLE_BYTES)
    assert not is_hole(HOLE, HOLE_BYTES - 1)
    liar = FileEntry("f", (5,), HOLE)
    assert (liar.hole_bytes, Manifest([liar]).room_bytes) == (0, 5)


def test_where_nothing_is_known_of_holes_there_is_none(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        assert hole_at(reading, 0, 100) == 0
    finally:
        os.close(reading)
        os.close(writing)
