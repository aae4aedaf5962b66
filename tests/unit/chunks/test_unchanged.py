"""What lies at a target already is left alone, and only that."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    made = ChunkStore(tmp_path / "store")
    yield made
    made.close()


def lay(store: ChunkStore, source: Path, target: Path) -> int:
    """Lays a folder out as it is now; how many bytes had to be written."""
    manifest = store.get_manifest(save_tree(store, source).digest)
    receiver = Receiver(manifest, target, cache=store.cache)
    try:
        wanted = receiver.wanted
        for digest in wanted:
            receiver.take([digest], memoryview(store.get(digest)))
        receiver.finish(0)
        return receiver.wanted_bytes(wanted)
    finally:
        receiver.close()


def source_of(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "a").write_bytes(b"first")
    (source / "below" / "b").write_bytes(b"second!")
    return source


def test_a_tree_that_lies_there_is_not_written_again(store: ChunkStore, tmp_path: Path) -> None:
    source, target = source_of(tmp_path), tmp_path / "target"
    assert lay(store, source, target) == 12
    seen = (target / "a").stat()
    assert lay(store, source, target) == 0
    assert (target / "a").stat() == seen


def test_only_the_file_that_is_another_now_is_written(store: ChunkStore, tmp_path: Path) -> None:
    source, target = source_of(tmp_path), tmp_path / "target"
    lay(store, source, target)
    (source / "a").write_bytes(b"newer")
    assert lay(store, source, target) == 5
    assert (target / "a").read_bytes() == b"newer"


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"F")


def replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(b"FIRST")
    path.with_suffix(".new").rename(path)


def remove(path: Path) -> None:
    path.unlink()


def make_executable(path: Path) -> None:
    path.chmod(0o755)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old").name)


@pytest.mark.parametrize(
    "spoil",
    [overwrite, replace, link, remove, make_executable],
)
def test_a_file_that_was_touched_is_written_again(
    store: ChunkStore, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    source, target = source_of(tmp_path), tmp_path / "target"
    lay(store, source, target)
    spoil(target / "a")
    assert lay(store, source, target) == 5
    assert (target / "a").read_bytes() == b"first"
    assert not os.access(target / "a", os.X_OK)
    assert not (target / "a").is_symlink()


def test_a_write_in_the_same_tick_of_the_clock_is_seen(store: ChunkStore, tmp_path: Path) -> None:
    source, target = source_of(tmp_path), tmp_path / "target"
    for _ in range(50):
        lay(store, source, target)
        overwrite(target / "a")
        assert lay(store, source, target) == 5
