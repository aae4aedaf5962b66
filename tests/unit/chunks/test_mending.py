"""Every flipped bit is found, none is served, and all come right again where a second copy is."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.mending import MOST_EVIDENCE
from dstack_mesh.chunks.scrubbing import CURSOR, Scrubbed, scrub
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Damaged, MeshError, Missing
from dstack_mesh.ids import Digest
from support.rounds import rounds, seeded

CHUNKS = 150


class Copy:
    """Another peer's store."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.asked = 0

    def chunk(self, digest: Digest) -> bytes | None:
        self.asked += 1
        return self._store.get(digest)

    def manifest(self, digest: Digest) -> bytes | None:
        self.asked += 1
        return self._store.get_encoded(digest)


class Liar:
    """A peer that gives other bytes than it was asked for."""

    def chunk(self, digest: Digest) -> bytes | None:
        return b"other"

    def manifest(self, digest: Digest) -> bytes | None:
        return b"other"


def chunks() -> dict[Digest, bytes]:
    dice = random.Random(7)
    made = [dice.randbytes(dice.randint(1, 6000)) for _ in range(CHUNKS)]
    return {digest_of(data): data for data in made}


def tree() -> Manifest:
    files = enumerate(chunks().items())
    return Manifest([FileEntry(f"{n:03}", (len(data),), digest) for n, (digest, data) in files])


def filled(folder: Path) -> ChunkStore:
    store = ChunkStore(folder, pack_bytes=100_000)
    for item in chunks().items():
        store.put([item])
    store.put_manifest(tree().encode())
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    store = filled(tmp_path / "one")
    yield store
    store.close()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Copy]:
    store = filled(tmp_path / "two")
    yield Copy(store)
    store.close()


def flip(path: Path, dice: random.Random, begin: int = 0, length: int = 0) -> None:
    """Flips a bit of a file, or of a part of it."""
    at = begin + dice.randrange(length or path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << dice.randrange(8)]))


def test_random_flips_are_found_never_served_and_mended(store: ChunkStore, second: Copy) -> None:
    dice = seeded("bit flips")
    wanted, listed = chunks(), tree()
    store.source = second
    flips = rounds(100)
    for number in range(flips):
        if dice.random() < 0.05:
            flip(store.shelf.path(listed.digest), dice)
        else:
            digest = dice.choice(list(wanted))
            place = store.index.locate([digest])[digest]
            flip(store.packs / place.pack, dice, place.offset, place.length)
        assert store.get_manifest(listed.digest).entries == listed.entries
        assert {d: bytes(data) for d, data in store.read(list(wanted))} == wanted
        assert second.asked == number + 1
    print(f"{flips:,} flips, {second.asked:,} found and mended")
    assert store.missing(wanted) == []


def test_without_a_second_copy_a_flip_is_said_and_not_served(store: ChunkStore) -> None:
    dice = random.Random(3)
    wanted = chunks()
    for _ in range(20):
        flip(dice.choice(sorted(store.packs.iterdir())), dice)
    lost: list[Digest] = []
    for digest, data in wanted.items():
        try:
            assert store.get(digest) == data
        except Damaged:
            lost.append(digest)
    assert lost
    assert store.missing(wanted) == lost
    with pytest.raises(Missing):
        store.get(lost[0])
    assert len(list(store.damaged.iterdir())) == len(lost)


def test_what_a_liar_gives_is_not_taken(store: ChunkStore) -> None:
    store.source = Liar()
    [*_, pack] = sorted(store.packs.iterdir())
    pack.write_bytes(bytes(pack.stat().st_size))
    lost = 0
    for digest, data in chunks().items():
        try:
            assert store.get(digest) == data
        except Damaged:
            lost += 1
    assert lost


def test_evidence_is_bounded(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    data = [b"%d" % n for n in range(MOST_EVIDENCE + 50)]
    store.put((digest_of(one), one) for one in data)
    [pack] = store.packs.iterdir()
    pack.write_bytes(bytes(pack.stat().st_size))
    for one in data:
        with pytest.raises(Damaged):
            store.get(digest_of(one))
    assert len(list(store.damaged.iterdir())) == MOST_EVIDENCE
    store.close()


def whole_pass(store: ChunkStore, anew: bool = False) -> Scrubbed:
    return sum(scrub(store, anew), Scrubbed())


def test_a_scrub_of_a_whole_store_finds_nothing(store: ChunkStore) -> None:
    found = whole_pass(store)
    size = sum(map(len, chunks().values()))
    assert found == Scrubbed(size + len(tree().encode()), CHUNKS, 1)


def test_a_scrub_finds_what_nobody_reads_and_mends_it(store: ChunkStore, second: Copy) -> None:
    dice = random.Random(5)
    for pack in sorted(store.packs.iterdir()):
        flip(pack, dice)
    flip(store.shelf.path(tree().digest), dice)
    alone = whole_pass(store)
    assert alone.damaged > 1
    assert alone.mended == 0
    assert store.missing(chunks())
    store.source = second
    again = whole_pass(store)
    assert (again.damaged, again.mended) == (0, alone.damaged - 1)  # a manifest is asked for
    assert store.missing(chunks()) == []


def test_a_scrub_goes_on_where_it_was(store: ChunkStore) -> None:
    pieces = list(scrub(store, anew=True))
    names = sorted(store.index.uses())
    store.index.put_cursor(CURSOR, f'["{names[2]}", -1]')
    rest = list(scrub(store))
    assert 0 < len(rest) < len(pieces)
    assert store.index.cursor(CURSOR) == ""


def test_a_scrub_finds_a_pack_that_is_gone(store: ChunkStore, second: Copy) -> None:
    sorted(store.packs.iterdir())[0].unlink()
    store.source = second
    found = whole_pass(store)
    assert found.damaged == found.mended > 0
    assert store.missing(chunks()) == []


def test_a_scrub_finds_a_damaged_index(store: ChunkStore) -> None:
    with sqlite3.connect(store.folder / "index.sqlite") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    path = store.folder / "index.sqlite"
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = bytes(len(content) - 4096 * 2)
    path.write_bytes(content)
    store.close()
    again = ChunkStore(store.folder)
    found = Scrubbed()
    with suppress(MeshError):
        found = whole_pass(again)
    again.close()
    if again.healed is None:
        assert found.index_damaged or (store.folder / "index.sqlite.damaged").exists()
    healed = ChunkStore(store.folder)
    assert healed.missing(chunks()) == []
    healed.close()
    store.__init__(store.folder)
