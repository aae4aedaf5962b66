"""Folders that stay between runs: whose they are, and how much of them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_agent.caches import KEEP_DAYS, Caches, Owner
from dstack_agent.database import Database
from dstack_agent.jobs.caching import Caching
from dstack_agent.jobs.places import Places
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import Saved
from dstack_mesh.clock import SystemClock
from dstack_mesh.ids import PeerId

AT = datetime(2026, 11, 20, tzinfo=UTC)
ANA = Owner(PeerId("a" * 32), "lab/digits", "train")
OTHERS = [
    Owner(PeerId("b" * 32), "lab/digits", "train"),
    Owner(PeerId(""), "lab/digits", "train"),
    Owner(ANA.peer, "lab/other", "train"),
    Owner(ANA.peer, "lab/digits", "prepare"),
]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "agent.db")
    yield opened
    opened.close()


def saved(text: str, size_bytes: int = 1) -> Saved:
    return Saved(digest_of(text.encode()), 1, size_bytes)


async def test_a_cache_is_its_owners_repositorys_and_workflows(database: Database) -> None:
    caches = Caches(database)
    await caches.keep(ANA, "pip", saved("x"), AT)

    assert caches.find(ANA, "pip") == digest_of(b"x")
    assert caches.find(ANA, "npm") is None
    assert [caches.find(other, "pip") for other in OTHERS] == [None] * len(OTHERS)


async def test_one_owner_s_caches_of_a_workflow_are_forgotten_and_no_others(
    database: Database,
) -> None:
    caches = Caches(database)
    for owner in (ANA, *OTHERS):
        for path in ("pip", "npm"):
            await caches.keep(owner, path, saved(path), AT)
    assert await caches.forget(ANA.peer, ANA.repo, ANA.workflow) == 2
    assert await caches.forget(ANA.peer, ANA.repo, ANA.workflow) == 0
    assert caches.find(ANA, "pip") is None
    assert all(caches.find(other, "npm") is not None for other in OTHERS)


async def test_the_last_one_counts(database: Database) -> None:
    caches = Caches(database)
    for text in ("x", "y"):
        await caches.keep(ANA, "pip", saved(text), AT)
    assert caches.digests() == {digest_of(b"y")}


async def test_what_was_used_longest_ago_makes_room(database: Database) -> None:
    caches = Caches(database, most_bytes=10)
    for number, other in enumerate(OTHERS):
        at = AT + timedelta(hours=number)
        await caches.keep(other, "pip", saved(f"{number}", 4), at)

    assert caches.digests() == {digest_of(b"2"), digest_of(b"3")}


async def test_what_nobody_used_for_long_goes(database: Database) -> None:
    caches = Caches(database)
    await caches.keep(ANA, "old", saved("x"), AT)
    await caches.keep(ANA, "new", saved("y"), AT + timedelta(days=KEEP_DAYS, seconds=1))
    assert caches.digests() == {digest_of(b"y")}


async def test_what_a_job_leaves_in_its_own_folder_is_laid_for_the_next(
    database: Database, tmp_path: Path
) -> None:
    store = ChunkStore(tmp_path / "chunks")
    caches = Caches(database)
    homes = [tmp_path / name for name in ("first", "second", "third")]

    def caching(home: Path, *paths: str, own_home: bool = True) -> Caching:
        work = home / "work"
        for folder in (work, home / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        places = Places(work, "", home / "home", own_home=own_home)
        return Caching(ANA, paths, places, store, caches, SystemClock())

    paths = ("build", "~/pip", "/absolute", "absent")

    def lay(caching: Caching) -> list[str]:
        return caching.lay(caching.found(), lambda: True)

    first = caching(homes[0], *paths)
    assert lay(first) == []
    for file in (homes[0] / "work/build/a/x", homes[0] / "home/pip/y"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    await first.keep()

    assert lay(caching(homes[1], *paths)) == ["build", "~/pip", "absent"]
    assert (homes[1] / "work/build/a/x").read_text() == "x"
    assert (homes[1] / "home/pip/y").read_text() == "y"

    (homes[1] / "work/build/a/x").unlink()
    await caching(homes[1], *paths).keep()
    lay(caching(homes[2], *paths))
    assert not (homes[2] / "work/build/a/x").exists()

    assert lay(caching(homes[2], "~/pip", own_home=False)) == []
    store.close()


async def test_a_cache_that_cannot_be_laid_fails_nothing(
    database: Database, tmp_path: Path
) -> None:
    store = ChunkStore(tmp_path / "chunks")
    caches = Caches(database)
    await caches.keep(ANA, "build", saved("never stored"), AT)
    places = Places(tmp_path, "", tmp_path, own_home=True)

    caching = Caching(ANA, ("build",), places, store, caches, SystemClock())

    assert caching.lay(caching.found(), lambda: True) == []
    store.close()
