"""An index that is damaged or lost is made again from the packs, and what is lost is said."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.frames import MOST_CHUNKS, Frame, Hole, header, read_frames
from dstack_mesh.chunks.index import IndexDamaged
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Digest
from support.rounds import rounds, seeded


def some_chunks(count: int, seed: int = 1) -> dict[Digest, bytes]:
    dice = random.Random(seed)
    made = [dice.randbytes(dice.randint(1, 5000)) for _ in range(count)]
    return {digest_of(data): data for data in made}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    store = ChunkStore(tmp_path / "chunks", pack_bytes=200_000)
    for seed in range(6):
        store.put(some_chunks(60, seed).items())
    store.close()
    yield tmp_path / "chunks"


def everything() -> dict[Digest, bytes]:
    return {d: data for seed in range(6) for d, data in some_chunks(60, seed).items()}


def check(folder: Path, lost: int = 0) -> ChunkStore:
    store = ChunkStore(folder)
    missing = store.missing(everything())
    assert len(missing) == lost
    for digest, data in everything().items():
        if digest not in missing:
            assert store.get(digest) == data
    store.close()
    return store


def test_an_index_that_is_gone_is_made_again(folder: Path) -> None:
    (folder / "index.sqlite").unlink()
    store = check(folder)
    assert store.healed
    assert (store.healed.chunks, store.healed.damaged, store.healed.lost_bytes) == (360, 0, 0)
    assert check(folder).healed is None


@pytest.mark.parametrize("content", [b"", b"no database at all" * 1000])
def test_an_index_that_is_no_database_is_made_again(folder: Path, content: bytes) -> None:
    (folder / "index.sqlite").write_bytes(content)
    check(folder)


def test_a_torn_tail_is_left_out_and_a_damaged_chunk_is_said(folder: Path) -> None:
    (folder / "index.sqlite").unlink()
    first, *_, last = sorted((folder / "packs").iterdir())
    with last.open("ab") as pack:
        pack.write(b"torn" * 100)
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    store = check(folder, lost=1)
    assert store.healed
    assert (store.healed.damaged, store.healed.lost_bytes) == (1, 400)
    assert "1 are damaged, and 400 bytes" in str(store.healed)


def test_a_damaged_header_costs_its_frame_alone(folder: Path) -> None:
    (folder / "index.sqlite").unlink()
    pack = sorted((folder / "packs").iterdir())[0]
    frames = [part for part in read_frames(pack) if isinstance(part, Frame)]
    content = bytearray(pack.read_bytes())
    content[10] ^= 1
    pack.write_bytes(content)
    store = check(folder, lost=len(frames[0].chunks))
    assert store.healed and store.healed.lost_bytes == frames[0].end


def test_while_others_have_it_open_a_damaged_index_is_said(folder: Path) -> None:
    other = ChunkStore(folder)
    (folder / "index.sqlite.damaged").touch()
    again = ChunkStore(folder)  # it still works
    again.close()
    other.close()
    assert check(folder).healed


def test_bits_flipped_in_the_index_never_give_wrong_bytes_and_heal(folder: Path) -> None:
    dice = seeded("bits of the index")
    path = folder / "index.sqlite"
    whole = path.read_bytes()
    wanted = everything()
    for _ in range(rounds(30)):
        content = bytearray(whole)
        for _ in range(dice.choice([1, 10, 200])):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
        for digest, data in _read_all(folder, wanted).items():
            assert data == wanted[digest]
        (folder / "index.sqlite.damaged").touch()  # as a scrub leaves it
        check(folder)


def _read_all(folder: Path, wanted: dict[Digest, bytes]) -> dict[Digest, bytes]:
    """What can be read of a store whose index is damaged; everything else is said in words."""
    found: dict[Digest, bytes] = {}
    try:
        store = ChunkStore(folder)
    except MeshError:
        return found
    try:
        for digest in wanted:
            try:
                found[digest] = store.get(digest)
            except MeshError:
                continue
    finally:
        store.close()
    return found


def test_a_store_that_finds_its_index_damaged_says_what_to_do(folder: Path) -> None:
    store = ChunkStore(folder)
    path = folder / "index.sqlite"
    path.write_bytes(path.read_bytes()[:4096] + bytes(path.stat().st_size - 4096))
    with pytest.raises(IndexDamaged) as damaged:
        store.missing(everything())
    assert damaged.value.code == "index-damaged"
    store.close()
    check(folder)


def test_frames_cut_anywhere_give_their_whole_chunks(tmp_path: Path) -> None:
    chunks = list(some_chunks(5).items())
    pack = tmp_path / "one.pack"
    content = b"".join(
        header([(d, len(data)) for d, data in part]) + b"".join(data for _, data in part)
        for part in (chunks[:2], chunks[2:])
    )
    for end in range(0, len(content), 7):
        pack.write_bytes(content[:end])
        found = [part for part in read_frames(pack) if isinstance(part, Frame)]
        for lying in (lying for frame in found for lying in frame.chunks):
            data = content[lying.offset : lying.offset + lying.length]
            assert digest_of(data) == lying.digest
    pack.write_bytes(b"lead" + content + b"tail")
    parts = list(read_frames(pack))
    assert [type(part) for part in parts] == [Hole, Frame, Frame, Hole]


def test_thousands_of_tiny_chunks_are_a_few_frames(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    data = [b"%d" % n for n in range(MOST_CHUNKS * 2 + 1)]
    store.put((digest_of(one), one) for one in data)
    [pack] = store.packs.iterdir()
    assert len(list(read_frames(pack))) == 3
    store.close()
    (tmp_path / "index.sqlite").unlink()
    store = ChunkStore(tmp_path)
    assert store.missing(digest_of(one) for one in data) == []
    store.close()
