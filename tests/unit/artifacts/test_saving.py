"""Versions of a running job's artifacts: each once, within bounds, and said what is mixed."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from dstack_agent.artifacts.pace import Pace
from dstack_agent.artifacts.saving import Saver
from dstack_agent.artifacts.watch import Watch
from dstack_agent.jobs.places import Places
from dstack_mesh.chunks.room import free_for_jobs
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree
from dstack_mesh.clock import SystemClock
from dstack_mesh.ids import RunId
from dstack_scheduler.job import ArtifactSaved, JobKey
from support.eventually import eventually, eventually_async

KEY = JobKey(RunId("0" * 26), 0, 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    store = ChunkStore(tmp_path / "chunks")
    yield store
    store.close()


PACE = Pace(gather=0.02, apart=0.1, unheard=0.5)


def saver_of(
    store: ChunkStore,
    tmp_path: Path,
    *paths: str,
    watch: Callable[[], Watch] = Watch,
    free: Callable[[Path], int] = free_for_jobs,
) -> Saver:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    places = Places(work, "", tmp_path)
    saver = Saver(KEY, paths, places, store, SystemClock(), {}, PACE, watch, free)
    saver.make_folders()
    return saver


async def version(saver: Saver, within: float) -> ArtifactSaved | None:
    """The next version; None if there is none within the time."""
    try:
        async with asyncio.timeout(within):
            return await anext(saver.changes())
    except TimeoutError:
        return None


async def test_each_change_is_one_version_and_nothing_is_none(
    store: ChunkStore, tmp_path: Path
) -> None:
    saver = saver_of(store, tmp_path, "a", "b")
    changes = saver.changes()
    async with asyncio.timeout(30):
        for text in ("one", "two"):
            (tmp_path / "work" / "a" / "file").write_text(text)
            told = await anext(changes)
            assert (told.path, told.files, told.complete) == ("a", 1, False)
            assert told.at is not None
            lay_tree(store, told.digest, tmp_path / text)
            assert (tmp_path / text / "file").read_text() == text
    # What was told before is known, also to the next life of an agent, and not told again.
    assert await version(saver, 1) is None


@pytest.mark.parametrize("without", ["inotify", "the folder"])
async def test_changes_that_nobody_hears_are_found(
    store: ChunkStore, tmp_path: Path, without: str
) -> None:
    looks: list[Path] = []

    def free(folder: Path) -> int:
        looks.append(folder)
        return free_for_jobs(folder)

    async def looked_twice() -> bool:
        return len(looks) > 2

    deaf = partial(Watch, system="another" if without == "inotify" else sys.platform)
    saver = saver_of(store, tmp_path, "a", watch=deaf, free=free)
    folder = tmp_path / "work" / "a"
    if without == "the folder":
        folder.rmdir()
    waiting = asyncio.create_task(version(saver, 20))
    await eventually_async(looked_twice, within=10)
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("late")
    told = await waiting
    assert told is not None
    assert told.files == 1


async def test_where_there_is_no_room_for_versions_there_are_none(
    store: ChunkStore, tmp_path: Path
) -> None:
    def none(_: Path) -> int:
        return 0

    saver = saver_of(store, tmp_path, "a", free=none)
    (tmp_path / "work" / "a" / "file").write_text("one")
    assert await version(saver, 1) is None
    [last], warning = await saver.last(complete=True)
    assert (last.files, last.complete, warning) == (1, True, "")


async def test_a_file_that_changes_all_the_time_is_kept_and_marked(
    store: ChunkStore, tmp_path: Path
) -> None:
    saver = saver_of(store, tmp_path, "a")
    log = tmp_path / "work" / "a" / "log"
    # So large that the writer has its turn while the file is read, however busy the machine is.
    log.write_bytes(bytes(128 << 20))
    with growing(log):
        [last], warning = await saver.last(complete=True)
    assert (last.files, last.changing) == (1, ("log",))
    assert warning.startswith("Of a, log changed each time")


@contextmanager
def growing(log: Path) -> Generator[None]:
    """A process appends to a file while the block runs."""
    append = "import sys\nwith open(sys.argv[1], 'ab', 0) as log:\n  while True: log.write(b'more')"
    before = log.stat().st_size
    with subprocess.Popen((sys.executable, "-c", append, str(log))) as writer:
        try:
            eventually(lambda: log.stat().st_size > before, within=10)
            yield
        finally:
            writer.kill()
