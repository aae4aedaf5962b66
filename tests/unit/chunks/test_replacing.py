"""A newer version of a tree over an older one, beside what somebody else wrote meanwhile."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.chunks.manifest import Entry
from dstack_mesh.chunks.replacing import Replaced, replace_tree
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.faults import Refused
from support.rounds import rounds

names = st.sampled_from(["a", "b", "a/a", "a/b", "b/c", "b/c/d"])
trees = st.dictionaries(names, st.sampled_from(["1", "2", "->a", "->b"]), max_size=6)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    with closing(ChunkStore(tmp_path / "store")) as store:
        yield store


def version(store: ChunkStore, folder: Path, files: dict[str, str]) -> tuple[Entry, ...]:
    """A tree of files, or of links where a text begins with "->"."""
    folder.mkdir()
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            place.symlink_to(text[2:])
        else:
            place.write_text(text)
    return store.get_manifest(save_tree(store, folder).digest).entries


def consistent(files: dict[str, str]) -> dict[str, str]:
    """Without what lies below something that is no folder."""
    return {path: text for path, text in files.items() if not any(a in files for a in above(path))}


def above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def seen(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): f"->{path.readlink()}"
        if path.is_symlink()
        else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@settings(max_examples=rounds(15), deadline=None)
@given(trees, trees, st.booleans())
def test_whatever_the_versions_the_newer_one_lies_there_and_the_job_s_own_stays(
    tmp_path_factory: pytest.TempPathFactory, old: dict[str, str], new: dict[str, str], own: bool
) -> None:
    folder = tmp_path_factory.mktemp("trees")
    old, new = consistent(old), consistent(new)
    with closing(ChunkStore(folder / "store")) as store:
        before = version(store, folder / "old", old)
        after = version(store, folder / "new", new)
        work = folder / "old"
        if own:
            (work / "mine").write_text("own")
        done = replace_tree(store, before, after, work, folder)

    assert seen(work) == new | ({"mine": "own"} if own else {})
    assert done.removed == len(old.keys() - new.keys())
    assert done.made == sum(old.get(path) != text for path, text in new.items())


def test_what_was_not_edited_is_not_touched(store: ChunkStore, tmp_path: Path) -> None:
    before = version(store, tmp_path / "old", {"a": "1", "b": "1"})
    after = version(store, tmp_path / "new", {"a": "2", "b": "1"})
    work = tmp_path / "old"
    (work / "b").write_text("the job's own")
    assert replace_tree(store, before, after, work, tmp_path) == Replaced(made=1)
    assert seen(work) == {"a": "2", "b": "the job's own"}


def test_a_folder_of_the_job_gives_way_to_nothing(store: ChunkStore, tmp_path: Path) -> None:
    before = version(store, tmp_path / "old", {"a/b": "1"})
    after = version(store, tmp_path / "new", {"a": "2"})
    work = tmp_path / "old"
    (work / "a" / "mine").write_text("own")
    with pytest.raises(Refused, match="do not fit"):
        replace_tree(store, before, after, work, tmp_path)
    assert (work / "a" / "mine").read_text() == "own"


def test_nothing_leads_out_by_a_link_that_the_job_made(store: ChunkStore, tmp_path: Path) -> None:
    before = version(store, tmp_path / "old", {"a/b": "1", "c/d": "1"})
    after = version(store, tmp_path / "new", {"a/b": "2"})
    outside, work = tmp_path / "outside", tmp_path / "old"
    outside.mkdir()
    for name in ("b", "d"):
        (outside / name).write_text("not yours")
    for name in ("a", "c"):
        (work / name).rename(tmp_path / f"moved-{name}")
        (work / name).symlink_to(outside)
    with pytest.raises(Refused):
        replace_tree(store, before, after, work, tmp_path)
    assert seen(outside) == {"b": "not yours", "d": "not yours"}


def test_a_work_folder_that_is_a_link_is_refused(store: ChunkStore, tmp_path: Path) -> None:
    before = version(store, tmp_path / "old", {"a": "1"})
    outside = tmp_path / "outside"
    lay_tree(store, save_tree(store, tmp_path / "old").digest, outside)
    (tmp_path / "work").symlink_to(outside)
    with pytest.raises((Refused, OSError)):
        replace_tree(store, before, (), tmp_path / "work", tmp_path)
    assert seen(outside) == {"a": "1"}
