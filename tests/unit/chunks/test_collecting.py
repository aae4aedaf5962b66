"""What nothing refers to goes, and nothing else, whoever reads and writes meanwhile."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.batch import Batch
from dstack_mesh.chunks.collecting import Collected, Collector, Rules
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.sessions import horizon
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Busy, Missing
from dstack_mesh.ids import Digest
from support.rounds import rounds, seeded

AT_ONCE = Rules(unused_seconds=0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    """One whose promises last no moment, and whose packs are small."""
    store = ChunkStore(tmp_path / "chunks", pack_bytes=100_000, grace_seconds=0)
    yield store
    store.close()


def content(name: object, size: int = 20_000) -> bytes:
    return random.Random(str(name)).randbytes(size)


def tree_of(*names: object) -> Manifest:
    files = [(str(name), content(name)) for name in names]
    return Manifest([FileEntry(name, (len(data),), digest_of(data)) for name, data in files])


def put_tree(store: ChunkStore, *names: object) -> Digest:
    data = [content(name) for name in names]
    store.put((digest_of(one), one) for one in data)
    return store.put_manifest(tree_of(*names).encode())


def collect(store: ChunkStore, *roots: Digest) -> Collected:
    """Twice: what the first condemns, the second sweeps."""
    Collector(store, lambda: set(roots), AT_ONCE).collect()
    return Collector(store, lambda: set(roots), AT_ONCE).collect()


def read_tree(store: ChunkStore, digest: Digest) -> None:
    for _ in store.read(store.get_manifest(digest).chunk_digests()):
        pass


def test_what_no_root_names_goes_and_the_rest_can_be_read(store: ChunkStore) -> None:
    kept, gone = put_tree(store, *range(10)), put_tree(store, *range(5, 40))
    before = store.size_bytes()
    collect(store, kept)
    read_tree(store, kept)
    assert store.missing_manifest(gone)
    assert len(store.missing(tree_of(*range(40)).chunk_digests())) == 30
    assert before - store.size_bytes() > 28 * 20_000
    assert store.size_bytes() < 2 * 10 * 20_000


def test_a_plan_says_what_would_go_and_changes_nothing(store: ChunkStore) -> None:
    kept, gone = put_tree(store, 1), put_tree(store, 2, 3)
    files = {path: path.read_bytes() for path in store.packs.iterdir()}
    plan = Collector(store, lambda: {kept}, AT_ONCE).plan()
    assert (plan.trees, plan.chunks, plan.chunk_bytes) == (1, 2, 40_000)
    assert {path: path.read_bytes() for path in store.packs.iterdir()} == files
    read_tree(store, gone)


def test_a_tree_that_was_asked_for_lately_stays(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    old, asked = put_tree(store, 1), put_tree(store, 2)
    for digest in (old, asked):
        os.utime(store.shelf.path(digest), (1, 1))
    assert not store.missing_manifest(asked)
    assert Collector(store, set).collect().trees == 1
    assert store.missing_manifest(old)
    read_tree(store, asked)
    store.close()


def test_a_tree_that_is_kept_for_somebody_stays_until_it_is_let_go(store: ChunkStore) -> None:
    copy = put_tree(store, 1)
    store.keep(copy, "run-1")
    store.keep(copy, "run-2")
    store.let_go("run-1")
    collect(store)
    read_tree(store, copy)
    store.let_go("run-2")
    collect(store)
    assert store.missing_manifest(copy)


def test_a_condemned_chunk_is_spared_by_who_is_told_that_it_is_here(store: ChunkStore) -> None:
    put_tree(store, 1)
    lone = digest_of(content(2))
    store.put([(lone, content(2))])
    collector = Collector(store, lambda: {tree_of(1).digest}, AT_ONCE)
    collector.collect()  # condemns
    assert store.missing([lone]) == []
    with store.session():
        collector.collect()
        collector.collect()
        assert store.put_manifest(tree_of(1, 2).encode())
    read_tree(store, tree_of(1, 2).digest)


def test_what_a_session_was_told_is_here_stays_while_it_lasts(store: ChunkStore) -> None:
    gone = put_tree(store, 1, 2)
    with store.session():
        assert not store.missing_manifest(gone)
        collect(store)
        read_tree(store, gone)
    collect(store)
    assert store.missing_manifest(gone)


def test_a_session_ends_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        from dstack_mesh.chunks.sessions import Session

        held = Session(folder, 0)
        os._exit(0 if held else 1)
    os.waitpid(pid, 0)
    assert len(list(folder.iterdir())) == 1
    horizon(folder, 0)
    assert list(folder.iterdir()) == []


def test_a_pack_that_somebody_writes_is_left_alone(store: ChunkStore, tmp_path: Path) -> None:
    other = ChunkStore(tmp_path / "chunks", grace_seconds=0)
    batch = Batch(store)
    batch.add(digest_of(content(1)), content(1))
    batch.flush()  # on disk, in no row
    collect(other)
    batch.commit()
    batch.close()
    assert store.get(digest_of(content(1))) == content(1)
    other.close()


def test_the_tail_of_a_writer_that_died_is_cut(store: ChunkStore) -> None:
    kept = put_tree(store, *range(3))
    store.close()
    [pack] = store.packs.iterdir()
    size = pack.stat().st_size
    with pack.open("ab") as file:
        file.write(b"torn" * 1000)
    again = ChunkStore(store.folder, grace_seconds=0)
    collect(again, kept)
    assert pack.stat().st_size == size
    read_tree(again, kept)
    again.close()
    store.__init__(store.folder)


def test_nothing_of_a_root_goes_while_its_list_of_files_is_damaged(store: ChunkStore) -> None:
    kept = put_tree(store, *range(5))
    path = store.shelf.path(kept)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    assert "damaged" in collect(store, kept).blocked
    store.put_manifest(whole)
    read_tree(store, kept)
    assert collect(store, kept).blocked == ""


def test_one_collects_at_a_time(store: ChunkStore, tmp_path: Path) -> None:
    other = ChunkStore(tmp_path / "chunks", grace_seconds=0)

    def meanwhile() -> None:
        with pytest.raises(Busy):
            Collector(other, set, AT_ONCE).collect()

    put_tree(store, 1)
    Collector(store, set, AT_ONCE, meanwhile).collect()
    other.close()


def test_a_full_quota_is_said_and_shortens_what_stays(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, grace_seconds=0)
    put_tree(store, *range(5))
    store.check_quota()
    store.most_bytes = 50_000
    with pytest.raises(Busy) as full:
        store.check_quota()
    assert full.value.code == "store-full"
    Collector(store, set, Rules()).collect()
    Collector(store, set, Rules()).collect()
    assert store.size_bytes() <= 50_000
    store.close()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[ChunkStore]:
    store = ChunkStore(tmp_path / "slow", pack_bytes=50_000, grace_seconds=1.0)
    yield store
    store.close()


def test_writers_and_a_collector_never_get_in_each_others_way(slow: ChunkStore) -> None:
    """Everything that was acknowledged within a grace and named as a root is whole, always."""
    dice = seeded("collecting beside writers")
    rivals = Rivals(slow)
    works = (rivals.write, rivals.write, rivals.gather)
    threads = [
        threading.Thread(target=rivals.work, args=(work, random.Random(dice.random())))
        for work in works
    ]
    for thread in threads:
        thread.start()
    rivals.stop.wait(rounds(5))
    rivals.stop.set()
    for thread in threads:
        thread.join()
    print(f"{rivals.written:,} trees written, {rivals.collections:,} collections")
    assert rivals.wrong == []
    for digest in rivals.roots:
        read_tree(slow, digest)


class Rivals:
    """Writers, and who collects what they need no more."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.roots: set[Digest] = set()
        self.wrong: list[str] = []
        self.stop = threading.Event()
        self.written = self.collections = 0

    def work(self, work: Callable[[random.Random], None], dice: random.Random) -> None:
        """Works until the end or until something is wrong."""
        while not self.stop.is_set():
            try:
                work(dice)
            except Exception as error:
                self.wrong.append(repr(error))
                self.stop.set()

    def write(self, dice: random.Random) -> None:
        """Writes a tree as a sender does: what is missing, then the manifest."""
        names = {digest_of(content(name)): name for name in dice.sample(range(60), 5)}
        lacking = self._store.missing(names)
        self._store.put((digest, content(names[digest])) for digest in lacking)
        digest = self._store.put_manifest(tree_of(*names.values()).encode())
        self.roots.add(digest)
        self.written += 1
        read_tree(self._store, digest)
        if len(self.roots) > 5:
            self.roots.discard(dice.choice(list(self.roots)))

    def gather(self, dice: random.Random) -> None:
        """Collects, and looks whether all is there that must be."""
        Collector(self._store, lambda: set(self.roots), AT_ONCE).collect()
        self.collections += 1
        for digest in list(self.roots):
            try:
                read_tree(self._store, digest)
            except Missing:
                if digest in self.roots:
                    raise


def test_a_collector_without_a_grace_would_be_caught(tmp_path: Path) -> None:
    """The negative control: with no grace, a promised chunk goes before it is named."""
    store = ChunkStore(tmp_path, grace_seconds=0)
    lone = digest_of(content(1))
    store.put([(lone, content(1))])
    assert store.missing([lone]) == []
    collect(store)
    assert store.missing([lone]) == [lone]
    store.close()
