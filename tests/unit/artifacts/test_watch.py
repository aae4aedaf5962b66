"""A watch hears every kind of change below the folders it was shown, and follows no link."""

import asyncio
import mmap
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from dstack_agent.artifacts.watch import MOST_FOLDERS, Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


def show(watch: Watch, folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        watch.heed(handle)
    finally:
        os.close(handle)


@asynccontextmanager
async def watching(*folders: Path, most: int = MOST_FOLDERS) -> AsyncGenerator[Watch]:
    with closing(Watch(most)) as watch:
        watch.begin()
        for folder in folders:
            show(watch, folder)
        assert watch.complete
        yield watch


async def hears(watch: Watch, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            await watch.changed()
    except TimeoutError:
        return False
    return True


def _content(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.iterdir()]


def _mapped(folder: Path) -> None:
    with (folder / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 65


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda at: (at / "new").touch(),
    "a new folder": lambda at: (at / "new").mkdir(),
    "a new link": lambda at: (at / "new").symlink_to("file"),
    "a new pipe": lambda at: os.mkfifo(at / "new"),
    "more in a file": lambda at: (at / "file").write_text("more"),
    "less in a file": lambda at: os.truncate(at / "file", 0),
    "an execute bit": lambda at: (at / "file").chmod(0o755),
    "another name": lambda at: (at / "file").rename(at / "other"),
    "moved away": lambda at: (at / "file").rename(at.parent / "away"),
    "removed": lambda at: (at / "file").unlink(),
    "the folder is moved": lambda at: at.rename(at.parent / "moved"),
    "a map of a file is closed": _mapped,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_every_change_is_heard(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "file").write_text("content")
    async with watching(folder) as watch:
        change(folder)
        assert await hears(watch, 5)
        watch.begin()
        assert not await hears(watch, 0.05)


async def test_looking_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    async with watching(tmp_path) as watch:
        assert _content(tmp_path) == ["content"]
        assert not await hears(watch, 0.05)


async def test_what_a_link_points_to_is_not_watched(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    async with watching(tmp_path / "inside") as watch:
        (tmp_path / "outside" / "file").touch()
        assert not await hears(watch, 0.05)


async def test_a_watch_that_is_given_too_many_folders_says_so(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    async with watching(*folders[:2], most=2) as watch:
        show(watch, folders[2])
        assert not watch.complete
        folders[0].rmdir()
        watch.begin()
        show(watch, folders[2])
        assert watch.complete  # a folder that is gone takes no place


async def test_a_closed_watch_is_harmless(tmp_path: Path) -> None:
    watch = Watch()
    watch.close()
    watch.begin()
    show(watch, tmp_path)
    watch.close()
    assert not watch.complete
    assert not await hears(watch, 0.01)
