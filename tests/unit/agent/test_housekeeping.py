"""The agent keeps its store small and whole while it runs, and stops between two pieces."""

import asyncio
import sqlite3
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_agent.caches import Caches, owner_of
from dstack_agent.copies import Copies
from dstack_agent.database import Database
from dstack_agent.driven import DrivenRuns
from dstack_agent.housekeeping import COLLECTED, SCRUBBED, Habits, Housekeeping
from dstack_agent.records import Records
from dstack_agent.roots import roots_of
from dstack_agent.upkeep import check_chunks, prune
from dstack_mesh.chunks.collecting import Rules
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import Saved
from dstack_mesh.faults import Busy
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.wire.channels import Channels
from dstack_scheduler.job import ArtifactSaved, Input
from support import testimony
from support.eventually import eventually_async

AT_ONCE = Habits(first_seconds=0, collect_seconds=0.05, scrub_seconds=0.05)


def put_tree(store: ChunkStore, content: bytes) -> Digest:
    digest = digest_of(content)
    store.put([(digest, content)])
    return store.put_manifest(Manifest([FileEntry("a", (len(content),), digest)]).encode())


async def test_what_no_run_needs_goes_and_damage_is_found(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, grace_seconds=0)
    kept, gone = put_tree(store, b"kept" * 1000), put_tree(store, b"gone" * 1000)

    async def roots() -> set[Digest]:
        return {kept}

    keeping = Housekeeping(store, roots, AT_ONCE, Rules(unused_seconds=0))
    running = asyncio.create_task(keeping.run())

    async def tidy() -> bool:
        return not store.index.locate([digest_of(b"gone" * 1000)])  # `missing` would spare it

    await eventually_async(tidy, within=10)
    assert store.missing_manifest(gone)
    chunk = digest_of(b"kept" * 1000)

    async def found() -> bool:
        """Damages it wherever it is now: a collection may be moving it to another pack."""
        if place := store.index.locate([chunk]).get(chunk):
            with suppress(FileNotFoundError), (store.packs / place.pack).open("r+b") as pack:
                pack.seek(place.offset)
                pack.write(b"?")
        return bool(store.missing([chunk]))

    await eventually_async(found, within=10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.index.cursor(COLLECTED) and store.index.cursor(SCRUBBED)
    store.close()


async def test_it_stops_in_the_middle_of_a_collection(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, grace_seconds=0)
    for number in range(300):
        put_tree(store, b"%d" % number)

    async def roots() -> set[Digest]:
        return set()

    habits = Habits(first_seconds=0, collect_seconds=0.01)
    running = asyncio.create_task(Housekeeping(store, roots, habits, Rules(0)).run())
    await asyncio.sleep(0.2)
    running.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 2
    store.close()  # nobody works with it any more


@pytest.mark.parametrize(
    "trouble", [sqlite3.OperationalError("disk I/O error"), OSError(5, "I/O"), Busy("Full.")]
)
async def test_trouble_with_the_disk_ends_nothing_and_it_is_tried_again(
    tmp_path: Path, trouble: Exception
) -> None:
    store, troubles = ChunkStore(tmp_path, grace_seconds=0), [trouble] * 3
    store.index.put_cursor(COLLECTED, "no time at all")

    async def roots() -> set[Digest]:
        if troubles:
            raise troubles.pop()
        return set()

    running = asyncio.create_task(Housekeeping(store, roots, AT_ONCE, Rules(0)).run())

    async def collected() -> bool:
        return not troubles and store.index.cursor(COLLECTED)[:1].isdigit()

    await eventually_async(collected, within=10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    store.close()


async def test_the_roots_are_what_runs_read_and_kept(tmp_path: Path) -> None:
    database = Database(tmp_path / "agent.db")
    records, driven, caches = Records(database), DrivenRuns(database), Caches(database)
    names = ("code", "input", "artifact", "cache")
    code, read, kept, cached = (digest_of(name.encode()) for name in names)
    spec = replace(testimony.spec(), code_digest=code, inputs=(Input(read, "data"),))
    await records.accept(spec, ())
    await records.save_artifact(ArtifactSaved(spec.key, "out", kept, 1, 1, False))
    owner = owner_of(spec, PeerId(""))
    await caches.keep(owner, "pip", Saved(cached, 1, 1), datetime.now(UTC))
    assert await roots_of(records, driven, caches) == {code, read, kept, cached}
    database.close()


async def test_nobody_is_asked_for_a_copy_within_the_loop(tmp_path: Path) -> None:
    copies = Copies(Channels(Home(tmp_path)), list)
    assert copies.chunk(digest_of(b"a")) is None  # it would wait for itself
    assert await asyncio.to_thread(copies.chunk, digest_of(b"a")) is None


def test_prune_and_check_work_beside_no_agent(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    store = ChunkStore(home.chunks)
    put_tree(store, b"fresh")
    store.close()
    assert prune(home, dry_run=True).trees == 0
    assert prune(home, dry_run=False).store_bytes > 0
    assert check_chunks(home, print).chunks == 1
