"""Whatever a list of files says, and whatever a job does to its folder, stays inside of it.

`DSTACK_CHAOS_ROUNDS` is how many lists are made, and how often a job swaps its names.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import pytest

from dstack_agent.artifacts.watch import Watch
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import Entry, FileEntry, FolderEntry, LinkEntry, Manifest
from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import Care, lay_tree, save_tree
from dstack_mesh.faults import Busy, Invalid, MeshError, Missing, Refused
from dstack_mesh.ids import Digest
from support import swapper
from support.hostile_manifests import HOSTILE
from support.hostile_trees import hostile_list
from support.resolving import escapes
from support.rounds import rounds, seeded
from support.untouched import Canary, untouched

LAID_OF = 50
"""One in so many lists that are accepted is laid out for real."""

CONTENTS = (b"x", b"y" * 100, bytes(1000))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    store = ChunkStore(tmp_path / "chunks")
    store.put((digest_of(data), data) for data in CONTENTS)
    yield store
    store.close()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "f").write_bytes(b"outside" * 10)
    return folder


def traps(folder: Path, outside: Path) -> Path:
    """A folder where names that lists like lead out already."""
    folder.mkdir()
    (folder / "a").symlink_to(outside)
    (folder / "b").symlink_to(outside / "f")
    (folder / "c").mkdir()
    (folder / "c" / "a").symlink_to("../../outside")
    (folder / "c" / "b").symlink_to("../..")
    return folder


def test_of_the_hostile_lists_nothing_is_kept_or_written(
    store: ChunkStore, tmp_path: Path, outside: Path
) -> None:
    with untouched(outside):
        for name, encoded in HOSTILE.items():
            with pytest.raises(Invalid):
                store.put_manifest(encoded)
            with pytest.raises(Missing):
                lay_tree(store, digest_of(encoded), tmp_path / "out")
            assert not (tmp_path / "out").exists(), name
    assert list((store.folder / "manifests").iterdir()) == []


def test_lists_made_at_random_are_refused_or_stay_inside(
    store: ChunkStore, tmp_path: Path, outside: Path
) -> None:
    dice = seeded("hostile lists")
    chunks = [(digest_of(data), len(data)) for data in CONTENTS]
    accepted = laid = 0
    with untouched(outside):
        for _ in range(rounds(20_000)):
            encoded = hostile_list(dice, chunks)
            try:
                tree = Manifest.decode(encoded)
            except Invalid:
                continue
            accepted += 1
            assert tree.encode() == encoded
            assert escapes(tree.entries) == [], tree.entries
            if accepted % LAID_OF == 0:
                laid += lay_both_ways(store, encoded, tmp_path / "laid", outside)
    print(f"{accepted:,} accepted, {laid:,} laid out")
    assert accepted > 100
    assert laid > 0


def lay_both_ways(store: ChunkStore, encoded: bytes, folder: Path, outside: Path) -> int:
    """Lays a list out where names lead out already; how often that was accepted."""
    done = 0
    folder.mkdir()
    with suppress(MeshError):
        digest = store.put_manifest(encoded)
        for merge, target in ((False, folder / "new"), (True, traps(folder / "merged", outside))):
            with suppress(Refused):
                lay_tree(store, digest, target, merge=merge, within=folder)
                done += 1
        with suppress(Refused, Busy):
            receive(store, digest, traps(folder / "received", outside))
            done += 1
    # Nothing but the folder itself is below it.
    assert {path.name for path in folder.iterdir()} <= {"new", "merged", "received"}
    shutil.rmtree(folder)
    return done


def receive(store: ChunkStore, digest: Digest, target: Path) -> None:
    receiver = Receiver(store.get_manifest(digest), target)
    try:
        for chunk, data in store.read(receiver.wanted):
            receiver.take([chunk], data)
        receiver.finish(0)
    finally:
        receiver.close()


@pytest.mark.parametrize(
    "entries",
    [
        [FileEntry("../x")],
        [FileEntry("/x")],
        [FolderEntry("a/../../x")],
        [LinkEntry("a", "/x")],
        [LinkEntry("a", "../x")],
        [LinkEntry("a/b", "../c"), LinkEntry("c", "..")],
        [LinkEntry("a", "b/../../x")],
        [LinkEntry("a/b", "../c/.."), LinkEntry("c", "d")],
        [FileEntry("safe\0/x")],
    ],
)
def test_a_list_that_leads_out_would_be_found(entries: list[Entry]) -> None:
    """The negative control of the check above; the last but one stays inside by luck."""
    lucky = LinkEntry("a/b", "../c/..") in entries
    assert bool(escapes(entries)) is not lucky


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder of a job that swaps its names."""
    root = tmp_path / "job"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"inside")
    (root / "e").write_bytes(b"inside")
    return root


def test_a_job_that_swaps_its_names_makes_nobody_read_outside(
    store: ChunkStore, job: Path, outside: Path
) -> None:
    secret = digest_of((outside / "f").read_bytes())
    flips, reads, met = rounds(20_000), 0, 0

    def read() -> None:
        nonlocal reads, met
        watch.begin()
        saved = save_tree(store, job, within=job.parent, care=Care(watch.heed, tries=2))
        save_tree(store, job, ["d/f", "e"], within=job.parent)
        met += bool(saved.skipped or saved.changed or saved.files < 2)
        reads += 2

    with untouched(outside), closing(Watch()) as watch:
        while_swapping(job, outside, flips, read)
    print(f"{flips:,} flips, {reads:,} reads, {met:,} met one")
    assert met > 0
    assert store.missing([secret]) == [secret]
    save_tree(store, outside)
    assert store.missing([secret]) == []  # the check would have seen it


def test_a_job_that_swaps_its_names_makes_nobody_write_outside(
    store: ChunkStore, job: Path, outside: Path
) -> None:
    chunk = digest_of(b"x")
    tree = Manifest([FileEntry("d/f", (1,), chunk), FileEntry("e", (1,), chunk)])
    digest = store.put_manifest(tree.encode())
    flips, writes, refused = rounds(20_000), 0, 0

    def write() -> None:
        nonlocal writes, refused
        try:
            lay_tree(store, digest, job, merge=True, within=job.parent)
            writes += 1
        except Refused:
            refused += 1

    with untouched(outside):
        while_swapping(job, outside, flips, write)
    print(f"{flips:,} flips, {writes:,} writes, {refused:,} refused")
    assert writes > 0
    assert [path.name for path in outside.iterdir()] == ["f"]


def while_swapping(job: Path, outside: Path, flips: int, do: Callable[[], None]) -> None:
    """Does something again and again while a process swaps the names of a folder.

    Raises:
        AssertionError: It was still at it long after the process ended: it waits for a pipe.
    """
    command = (sys.executable, swapper.__file__, str(job), str(outside), str(flips))
    failed: list[BaseException] = []

    def go_on() -> None:
        try:
            while process.poll() is None:
                do()
        except BaseException as error:
            failed.append(error)

    with subprocess.Popen(command) as process:
        doing = Thread(target=go_on, daemon=True)
        doing.start()
        assert process.wait() == 0
        doing.join(60)
        assert not doing.is_alive()
    if failed:
        raise failed[0]


def test_the_canary_hears_a_reader_and_a_writer(outside: Path) -> None:
    with closing(Canary(outside)) as canary:
        assert not canary.touched()
        (outside / "f").read_bytes()
        assert canary.touched()
        (outside / "new").touch()
        assert canary.touched()
