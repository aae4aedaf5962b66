"""A tree comes out as it went in, and nothing outside of it is read or written."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack_mesh.chunks.cache import Cut
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, LinkEntry, Manifest
from dstack_mesh.chunks.paths import path_fault
from dstack_mesh.chunks.reading import stamp_of
from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.faults import Damaged, Missing, Refused
from support.eventually import eventually


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    store = ChunkStore(tmp_path / "chunks")
    yield store
    store.close()


def picture(root: Path) -> dict[str, tuple[str, object]]:
    """What is in a folder: kinds, contents and execute bits; folders only if they are empty."""
    seen: dict[str, tuple[str, object]] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            seen[name] = ("link", path.readlink().as_posix())
        elif path.is_dir():
            if not any(path.iterdir()):
                seen[name] = ("folder", None)
        else:
            seen[name] = ("file", (path.read_bytes(), path.stat().st_mode & 0o777))
    return seen


def make(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


names = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=6
).filter(lambda name: not path_fault(name))
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join),
    st.one_of(st.binary(max_size=40), st.integers(1, 150_000), st.just("link"), st.just("folder")),
    max_size=10,
)


@given(trees)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_tree_comes_out_as_it_went_in(
    store: ChunkStore, tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes | int | str]
) -> None:
    base = tmp_path_factory.mktemp("tree")
    (base / "in").mkdir()
    for name, what in tree.items():
        path = base / "in" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if what == "link":
                path.symlink_to("anywhere")
            elif what == "folder":
                path.mkdir()
            else:
                random_bytes = isinstance(what, int) and random.Random(what).randbytes(what)
                path.write_bytes(random_bytes or (what if isinstance(what, bytes) else b""))
                path.chmod(0o755 if len(name) % 2 else 0o644)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    saved = save_tree(store, base / "in")
    assert saved.skipped == ()
    lay_tree(store, saved.digest, base / "out")
    assert picture(base / "out") == picture(base / "in")
    assert save_tree(store, base / "out").digest == saved.digest


def test_unchanged_files_are_not_read_again(store: ChunkStore, tmp_path: Path) -> None:
    root = make(tmp_path / "in", {"a": b"1", "b/c": b"2" * 100_000})
    eventually(lambda: time.time() - (root / "b" / "c").stat().st_ctime > 0.1, within=1)
    first = save_tree(store, root)
    # Nobody can tell from outside whether a file is read: so the memory is made to lie.
    stamp = stamp_of((root / "a").stat())
    store.put([(digest_of(b"!"), b"!")])
    store.cache.remember([(stamp, Cut((1,), digest_of(b"!")))])
    assert save_tree(store, root).digest != first.digest
    (root / "a").touch()
    assert save_tree(store, root).digest == first.digest


def test_an_edit_with_the_same_size_and_time_is_seen(store: ChunkStore, tmp_path: Path) -> None:
    root = make(tmp_path / "in", {"a": b"one"})
    digests: set[bytes] = set()
    for content in (b"one", b"two", b"six"):
        (root / "a").write_bytes(content)
        os.utime(root / "a", (1, 1))
        digests.add(save_tree(store, root).digest)
    assert len(digests) == 3


def test_a_remembered_file_whose_chunks_are_lost_is_read_again(
    store: ChunkStore, tmp_path: Path
) -> None:
    root = make(tmp_path / "in", {"a": b"content"})
    saved = save_tree(store, root)
    [pack] = (store.folder / "packs").iterdir()
    pack.write_bytes(b"wrong!!")
    with pytest.raises(Damaged):
        lay_tree(store, saved.digest, tmp_path / "out")
    assert save_tree(store, root).digest == saved.digest
    lay_tree(store, saved.digest, tmp_path / "again")
    assert (tmp_path / "again" / "a").read_bytes() == b"content"


def test_what_cannot_travel_is_named_with_the_reason(store: ChunkStore, tmp_path: Path) -> None:
    root = make(tmp_path / "in", {"good": b"1", "new\nline": b"2"})
    os.mkfifo(root / "pipe")
    (root / "out").symlink_to("../../etc/passwd")
    (root / "abs").symlink_to("/etc/passwd")
    (root / "in").symlink_to("good")
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xff")).touch()
    saved = save_tree(store, root)
    assert {left.path: left.reason for left in saved.skipped} == {
        "abs": "it points to an absolute path: /etc/passwd",
        "bad\\xff": "its name is not UTF-8",
        "new\nline": "its name has a control character",
        "out": "it points out of the tree: ../../etc/passwd",
        "pipe": "it is no regular file, folder or link",
    }
    entries = store.get_manifest(saved.digest).entries
    assert [entry.path for entry in entries] == ["good", "in"]


def test_only_what_is_listed_is_saved(store: ChunkStore, tmp_path: Path) -> None:
    root = make(tmp_path / "in", {"a": b"1", "b/c": b"2", "b/d": b"3"})
    saved = save_tree(store, root, ["b/c", "a", "gone", "a/below", "b"])
    assert [entry.path for entry in store.get_manifest(saved.digest).entries] == ["a", "b/c"]
    assert [left.path for left in saved.skipped] == ["b"]


def test_a_folder_that_is_not_there_is_missing(store: ChunkStore, tmp_path: Path) -> None:
    with pytest.raises(Missing):
        save_tree(store, tmp_path / "nothing")


def test_a_root_behind_a_link_is_refused_within_a_folder(store: ChunkStore, tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", {"secret": b"s"})
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "output").symlink_to(outside)
    with pytest.raises((Refused, Missing)):
        save_tree(store, tmp_path / "job" / "output", within=tmp_path / "job")
    assert save_tree(store, tmp_path / "job" / "output").files == 1  # the negative control
    digest = Manifest([]).digest
    store.put_manifest(Manifest([]).encode())
    with pytest.raises(Refused):
        lay_tree(store, digest, tmp_path / "job" / "output", merge=True, within=tmp_path / "job")


def test_a_file_that_changes_all_the_time_is_marked(store: ChunkStore, tmp_path: Path) -> None:
    # So large that the writer has its turn while the file is read, however busy the machine is.
    root = make(tmp_path / "in", {"log": bytes(256 << 20), "still": b"1"})
    append = "import sys\nwith open(sys.argv[1], 'ab', 0) as log:\n  while True: log.write(b'more')"
    with subprocess.Popen((sys.executable, "-c", append, str(root / "log"))) as writer:
        eventually(lambda: (root / "log").stat().st_size > 256 << 20, within=10)
        saved = save_tree(store, root)
        writer.kill()
    assert saved.changed == ("log",)
    assert saved.files == 2
    assert save_tree(store, root).changed == ()


def test_laying_needs_an_empty_folder_unless_it_merges(store: ChunkStore, tmp_path: Path) -> None:
    saved = save_tree(store, make(tmp_path / "in", {"a": b"new", "b/c": b"new"}))
    out = make(tmp_path / "out", {"a": b"old", "kept": b"old"})
    with pytest.raises(Refused):
        lay_tree(store, saved.digest, out)
    laid = lay_tree(store, saved.digest, out, merge=True)
    assert laid.conflicts == ("a",)
    assert {name: what[1] for name, what in picture(out).items()} == {
        "a": (b"new", 0o644),
        "b/c": (b"new", 0o644),
        "kept": (b"old", 0o644),
    }


def test_laying_never_writes_through_what_is_there(store: ChunkStore, tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", {"f": b"safe"})
    saved = save_tree(store, make(tmp_path / "in", {"a": b"new", "d/f": b"new"}))
    out = make(tmp_path / "out", {})
    (out / "a").symlink_to(outside / "f")
    assert lay_tree(store, saved.digest, out, merge=True).conflicts == ("a",)
    assert (out / "a").read_bytes() == b"new"
    assert not (out / "a").is_symlink()
    other = make(tmp_path / "other", {})
    (other / "d").symlink_to(outside)
    with pytest.raises(Refused):
        lay_tree(store, saved.digest, other, merge=True)
    assert picture(outside) == {"f": ("file", (b"safe", 0o644))}


def test_a_part_of_a_tree_is_copied_without_links_that_lead_out_of_it(
    store: ChunkStore, tmp_path: Path
) -> None:
    root = make(tmp_path / "in", {"a/b/file": b"1", "c": b"2"})
    (root / "a" / "b" / "out").symlink_to("../../c")
    (root / "a" / "b" / "in").symlink_to("file")
    saved = save_tree(store, root)
    assert saved.skipped == ()
    tree = store.get_manifest(saved.digest)
    for prefix, left_out, names in (
        ("", (), {"a/b/file", "a/b/out", "a/b/in", "c"}),
        ("a", ("b/out",), {"b/file", "b/in"}),
        ("a/b", ("out",), {"file", "in"}),
    ):
        target = tmp_path / f"out-{len(prefix)}"
        receiver = Receiver(tree, target, prefix)
        try:
            for chunk, data in store.read(receiver.wanted):
                receiver.take([chunk], data)
            assert receiver.finish(0).left_out == left_out
        finally:
            receiver.close()
        assert set(picture(target)) == names


def test_nothing_is_written_if_a_chunk_is_missing(store: ChunkStore, tmp_path: Path) -> None:
    saved = save_tree(store, make(tmp_path / "in", {"a": b"1", "b": b"2"}))
    other = ChunkStore(tmp_path / "other")
    path = Path("manifests") / saved.digest.hex()
    (other.folder / path).write_bytes((store.folder / path).read_bytes())
    with pytest.raises(Missing):
        lay_tree(other, saved.digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other.close()


def test_a_hard_mask_does_not_change_modes(store: ChunkStore, tmp_path: Path) -> None:
    root = make(tmp_path / "in", {"run": b"#!", "d/text": b"1"})
    (root / "run").chmod(0o700)
    saved = save_tree(store, root)
    before = os.umask(0o077)
    try:
        lay_tree(store, saved.digest, tmp_path / "out")
    finally:
        os.umask(before)
    laid = {"run": 0o755, "d": 0o755, "d/text": 0o644}
    modes = {name: (tmp_path / "out" / name).stat().st_mode & 0o7777 for name in laid}
    assert modes == laid


def test_a_sparse_gigabyte_takes_next_to_no_room(store: ChunkStore, tmp_path: Path) -> None:
    """A sparse gigabyte is one chunk many times."""
    root = make(tmp_path / "in", {})
    with (root / "big").open("wb") as file:
        file.truncate(1 << 30)
    saved = save_tree(store, root)
    assert saved.size_bytes == 1 << 30
    assert sum(pack.stat().st_size for pack in (store.folder / "packs").iterdir()) < 1 << 20


def test_links_are_laid_as_they_are_written(store: ChunkStore, tmp_path: Path) -> None:
    tree = Manifest([LinkEntry("a/b", "../c/d"), FileEntry("c/e"), LinkEntry("c/d", "e")])
    digest = store.put_manifest(tree.encode())
    lay_tree(store, digest, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b").resolve() == tmp_path / "out" / "c" / "e"
