"""Large files are written past the page cache, and hold the same bytes."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack_mesh.chunks.direct import BUFFER_BYTES, DIRECT_BYTES, DIRECT_FLAG, DirectWriter
from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree

MIB = 1 << 20


def written(path: Path, pieces: list[tuple[int, bytes]], flag: int = DIRECT_FLAG) -> bytes:
    """The file that pieces make."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    writer = DirectWriter(flag)
    try:
        writer.begin(file)
        for offset, piece in pieces:
            writer.write(memoryview(piece), offset)
        writer.end()
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        writer.close()
        os.close(file)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(
        st.integers(1, 9000) | st.integers(MIB - 2, MIB + 2) | st.just(BUFFER_BYTES),
        min_size=1,
        max_size=10,
    ),
    seed=st.integers(0, 1000),
    in_order=st.booleans(),
)
def test_pieces_in_any_order_make_the_file(
    tmp_path: Path, sizes: list[int], seed: int, in_order: bool
) -> None:
    chance = random.Random(seed)
    content = chance.randbytes(sum(sizes))
    pieces: list[tuple[int, bytes]] = []
    for size in sizes:
        at = sum(len(piece) for _, piece in pieces)
        pieces.append((at, content[at : at + size]))
    if not in_order:
        chance.shuffle(pieces)
    assert written(tmp_path / "file", pieces) == content


def test_a_file_system_without_direct_writes_holds_the_same(tmp_path: Path) -> None:
    content = os.urandom(3 * MIB + 5)
    assert written(tmp_path / "file", [(0, content)], flag=0) == content


def test_a_write_that_the_disk_refuses_is_told() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = DirectWriter()
    try:
        writer.begin(full)
        writer.write(memoryview(bytes(1000)), 0)
        with pytest.raises(OSError, match="No space"):
            writer.end()
    finally:
        writer.close()
        os.close(full)


def receive(store: ChunkStore, root: Path, target: Path) -> None:
    """Lays a saved tree out, chunk by chunk."""
    receiver = Receiver(store.get_manifest(save_tree(store, root).digest), target)
    try:
        for digest in receiver.wanted:
            receiver.take([digest], memoryview(store.get(digest)))
        receiver.finish(0)
    finally:
        receiver.close()


def test_large_files_with_repeats_arrive_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    block = os.urandom(6 * MIB + 77)
    files = {
        "a": block + os.urandom(DIRECT_BYTES) + block,
        "b": os.urandom(DIRECT_BYTES + 1) + block[: 5 * MIB],
        "small": block[:MIB],
    }
    for name, content in files.items():
        (source / name).write_bytes(content)
    store = ChunkStore(tmp_path / "store")
    receive(store, source, tmp_path / "target")
    store.close()
    assert {name: (tmp_path / "target" / name).read_bytes() for name in files} == files


def test_a_large_file_that_is_not_whole_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(os.urandom(DIRECT_BYTES))
    store = ChunkStore(tmp_path / "store")
    receiver = Receiver(store.get_manifest(save_tree(store, source).digest), tmp_path / "target")
    for digest in receiver.wanted[:900]:
        receiver.take([digest], memoryview(store.get(digest)))
    receiver.close()
    store.close()
    assert list((tmp_path / "target").iterdir()) == []
