"""What the store says is here is here, whole, whatever happened to it."""

import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.packs import PackReader
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Busy, Damaged, Invalid, Missing, Refused
from dstack_mesh.ids import Digest


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    store = ChunkStore(tmp_path / "chunks")
    yield store
    store.close()


def some_chunks(count: int, seed: int = 1, size: int = 5000) -> dict[Digest, bytes]:
    dice = random.Random(seed)
    made = [dice.randbytes(dice.randint(1, size)) for _ in range(count)]
    return {digest_of(data): data for data in made}


def pack_files(store: ChunkStore) -> list[Path]:
    return sorted((store.folder / "packs").iterdir())


def test_what_was_put_is_read_back(store: ChunkStore) -> None:
    chunks = some_chunks(300)
    store.put(chunks.items())
    assert {digest: store.get(digest) for digest in chunks} == chunks
    read = [(digest, bytes(data)) for digest, data in store.read(list(chunks))]
    assert read == list(chunks.items())


def test_reading_keeps_the_order_asked_for(store: ChunkStore) -> None:
    chunks = some_chunks(50)
    store.put(chunks.items())
    order = random.Random(3).choices(list(chunks), k=200)
    assert [digest for digest, _ in store.read(order)] == order


def test_what_is_not_here_is_missing(store: ChunkStore) -> None:
    here, absent = some_chunks(3, seed=1), some_chunks(3, seed=2)
    store.put(here.items())
    assert store.missing([*absent, *here, *absent]) == list(absent)
    with pytest.raises(Missing):
        store.get(next(iter(absent)))


def test_a_chunk_that_is_not_what_it_is_called_is_refused(store: ChunkStore) -> None:
    digest = digest_of(b"right")
    with pytest.raises(Damaged):
        store.put([(digest, b"wrong")])
    assert store.missing([digest]) == [digest]


def test_the_same_chunk_again_takes_no_room(store: ChunkStore) -> None:
    chunks = some_chunks(20)
    store.put(chunks.items())
    size = sum(file.stat().st_size for file in pack_files(store))
    store.put([*chunks.items(), *chunks.items()])
    assert sum(file.stat().st_size for file in pack_files(store)) == size


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_never_served_and_can_be_repaired(store: ChunkStore, seed: int) -> None:
    chunks = some_chunks(40)
    store.put(chunks.items())
    [pack] = pack_files(store)
    dice = random.Random(seed)
    at, bit = dice.randrange(pack.stat().st_size), 1 << dice.randrange(8)
    with pack.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bit]))
    damaged: list[Digest] = []
    for digest, data in chunks.items():
        try:
            assert store.get(digest) == data
        except Damaged:
            damaged.append(digest)
    assert len(damaged) == 1
    assert store.missing(chunks) == damaged
    store.put(chunks.items())
    assert {digest: store.get(digest) for digest in chunks} == chunks


def test_a_pack_cut_short_loses_only_what_was_cut(store: ChunkStore) -> None:
    chunks = some_chunks(30)
    store.put(chunks.items())
    [pack] = pack_files(store)
    os.truncate(pack, pack.stat().st_size - 1)
    with pytest.raises(Damaged):
        list(store.read(list(chunks)))
    assert len(store.missing(chunks)) == 1
    store.put(chunks.items())
    assert {digest: store.get(digest) for digest in chunks} == chunks


def test_a_pack_that_is_gone_is_damage_not_a_crash(store: ChunkStore) -> None:
    chunks = some_chunks(3)
    store.put(chunks.items())
    pack_files(store)[0].unlink()
    for digest in chunks:
        with pytest.raises(Damaged):
            store.get(digest)
    assert store.missing(chunks) == list(chunks)


def test_a_new_pack_begins_when_one_is_full(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, pack_bytes=10_000)
    chunks = some_chunks(60)
    for item in chunks.items():
        store.put([item])
    assert len(pack_files(store)) > 5
    assert {digest: store.get(digest) for digest in chunks} == chunks
    store.close()


def test_many_packs_are_read_with_few_open_files(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.pack").write_bytes(b"%d" % number)
    reader = PackReader(tmp_path, open_packs=3)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in random.Random(1).choices(range(30), k=200):
        assert reader.read(f"{number}.pack", 0, len(str(number))) == b"%d" % number
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
    reader.close()


def test_threads_share_a_store(store: ChunkStore) -> None:
    groups = [some_chunks(100, seed=seed % 3) for seed in range(6)]
    threads = [threading.Thread(target=store.put, args=(group.items(),)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for group in groups:
        assert {digest: store.get(digest) for digest in group} == group


def test_manifests_come_after_their_chunks(store: ChunkStore) -> None:
    data = b"content"
    tree = Manifest([FileEntry("a", (len(data),), digest_of(data))])
    with pytest.raises(Refused):
        store.put_manifest(tree.encode())
    assert store.missing_manifest(tree.digest)
    store.put([(digest_of(data), data)])
    assert store.put_manifest(tree.encode()) == tree.digest
    assert store.get_manifest(tree.digest).entries == tree.entries


def test_a_manifest_that_lies_about_a_size_is_refused(store: ChunkStore) -> None:
    store.put([(digest_of(b"content"), b"content")])
    tree = Manifest([FileEntry("a", (6,), digest_of(b"content"))])
    with pytest.raises(Invalid, match="wrong size"):
        store.put_manifest(tree.encode())


def test_a_damaged_manifest_is_missing_from_then_on(store: ChunkStore) -> None:
    tree = Manifest([FileEntry("a"), FileEntry("b")])
    digest = store.put_manifest(tree.encode())
    path = store.folder / "manifests" / digest.hex()
    path.write_bytes(path.read_bytes().replace(b"a", b"c", 1))
    with pytest.raises(Damaged):
        store.get_manifest(digest)
    with pytest.raises(Missing):
        store.get_manifest(digest)
    assert store.put_manifest(tree.encode()) == digest
    assert store.get_manifest(digest).entries == tree.entries


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    ChunkStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "index.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(Refused, match="newer version"):
        ChunkStore(tmp_path)


WRITE = """
import sys
from pathlib import Path
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.packs import PackReader
from dstack_mesh.chunks.store import ChunkStore
store = ChunkStore(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    data = [(b"%s-%d-%d" % (sys.argv[3].encode(), number, n)) * 400 for n in range(8)]
    store.put([(digest_of(one), one) for one in data])
    print(*(digest_of(one).hex() for one in data), flush=True)
"""


def writer(folder: Path, count: int, name: str) -> "subprocess.Popen[str]":
    """A process that puts groups of chunks and says which ones were acknowledged."""
    command = (sys.executable, "-c", WRITE, str(folder), str(count), name)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(said: str) -> list[Digest]:
    """Digests of complete lines."""
    complete = said[: said.rfind("\n") + 1]
    return [Digest(bytes.fromhex(word)) for word in complete.split()]


def test_processes_share_a_store(tmp_path: Path) -> None:
    writers = [writer(tmp_path, 20, name) for name in ("a", "b", "a")]
    said = [process.communicate(timeout=60)[0] for process in writers]
    assert [process.returncode for process in writers] == [0, 0, 0]
    store = ChunkStore(tmp_path)
    for digest in acknowledged("".join(said)):
        assert digest_of(store.get(digest)) == digest
    store.close()


@pytest.mark.parametrize("seed", range(6))
def test_what_was_acknowledged_survives_a_killed_writer(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    process = writer(tmp_path, 1000, "k")
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(dice.randint(1, 40))]
    process.kill()
    said = "".join(lines) + process.stdout.read()
    process.wait()
    process.stdout.close()
    for pack in (tmp_path / "packs").iterdir():
        # A torn tail: bytes that were written and never promised.
        with pack.open("ab") as file:
            file.write(dice.randbytes(dice.randint(0, 10_000)))
    store = ChunkStore(tmp_path)
    promised = acknowledged(said)
    assert promised
    for digest in promised:
        assert digest_of(store.get(digest)) == digest
    chunks = some_chunks(5, seed)
    store.put(chunks.items())
    assert store.missing(chunks) == []
    store.close()


RECEIVE = """
import random, sys
from pathlib import Path
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.batch import Batch
from dstack_mesh.chunks.store import ChunkStore
batch = Batch(ChunkStore(Path(sys.argv[1])))
dice, size = random.Random(sys.argv[2]), 0
while True:
    data = dice.randbytes(dice.randint(1, 60_000))
    batch.add_foreign(digest_of(data), data)
    size += len(data)
    print(size, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_receiver_has_to_be_sent_a_megabyte_again_at_most(
    tmp_path: Path, seed: int
) -> None:
    command = (sys.executable, "-c", RECEIVE, str(tmp_path), str(seed))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(random.Random(seed).randint(1, 400))]
    process.kill()
    lines += process.stdout.readlines()
    received = int(lines[-1] if lines[-1].endswith("\n") else lines[-2])
    process.stdout.close()
    process.wait()
    store = ChunkStore(tmp_path)
    dice, size, kept = random.Random(str(seed)), 0, 0
    while size < received:
        data = dice.randbytes(dice.randint(1, 60_000))
        size += len(data)
        if not store.missing([digest_of(data)]):
            assert store.get(digest_of(data)) == data
            kept += len(data)
    assert received - kept <= 1 << 20
    assert received < 2 << 20 or kept
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder))
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("needs root to mount a small disk")
    yield folder
    subprocess.run(("umount", str(folder)), check=True)


def test_a_full_disk_is_said_and_loses_nothing(small_disk: Path) -> None:
    store = ChunkStore(small_disk / "chunks")
    kept = some_chunks(20)
    store.put(kept.items())
    large = some_chunks(60, seed=5, size=100_000)
    with pytest.raises(Busy) as full:
        store.put(large.items())
    assert str(small_disk) in full.value.what
    assert full.value.code == "disk-full"
    assert {digest: store.get(digest) for digest in kept} == kept
    assert len(store.missing(large)) == len(large)
    store.close()
