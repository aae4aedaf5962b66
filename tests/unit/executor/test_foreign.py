"""What others wrote is read and removed, whatever it is."""

import os
from pathlib import Path

import pytest

from dstack_agent.executor.foreign import entries_below, read_regular, remove_tree
from support.deep import make_deep


def test_a_folder_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    make_deep(tmp_path / "x")
    assert remove_tree(tmp_path / "x") is None
    assert not os.path.lexists(tmp_path / "x")


def test_what_is_write_protected_goes_too(tmp_path: Path) -> None:
    root = tmp_path / "x"
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "f").touch(0o444)
    for folder in (root / "a" / "b" / "c", root / "a" / "b", root / "a", root):
        folder.chmod(0o500)
    assert remove_tree(root) is None
    assert not root.exists()


def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "to x").symlink_to(tmp_path / "x")
    assert remove_tree(tmp_path / "to x") is None
    assert (tmp_path / "x" / "link").is_symlink()
    assert remove_tree(tmp_path / "x") is None
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "file"]


def test_what_is_not_there_is_no_trouble_and_what_cannot_go_is(tmp_path: Path) -> None:
    assert remove_tree(tmp_path / "nowhere") is None
    assert remove_tree(Path("/proc/self/fdinfo")) is not None


@pytest.mark.parametrize("kind", ["fifo", "zeros", "link", "folder", "large", "missing"])
def test_nothing_but_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "zeros":
            path.symlink_to("/dev/zero")
        case "link":
            (tmp_path / "file").write_text("text")
            path.symlink_to(tmp_path / "file")
        case "folder":
            path.mkdir()
        case "large":
            path.write_bytes(b"x" * 5)
        case _:
            pass
    assert read_regular(path, 4) is None


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"text")
    assert read_regular(tmp_path / "x", 4) == b"text"


def test_what_is_below_a_folder_is_listed_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "x" / "a" / "b").mkdir(parents=True)
    (tmp_path / "x" / "a" / "up").symlink_to("..")
    (tmp_path / "x" / "apart").mkdir()
    (tmp_path / "x" / "apart" / "not").touch()
    (tmp_path / "to x").symlink_to("x")
    found = [path for path, _ in entries_below(tmp_path / "x", leave_out={"apart"})]
    assert sorted(found) == ["a", "a/b", "a/up"]
    assert list(entries_below(tmp_path / "to x")) == []
