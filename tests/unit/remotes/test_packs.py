"""Packs are cut by what is in them, and what is read of them is what was wanted."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.faults import Damaged
from dstack_mesh.ids import Digest
from dstack_mesh.remotes.packs import LEAST_BYTES, MOST_BYTES, PackIndex, Place, cut, spans


def some_chunks(count: int, seed: int = 1, size: int = 64 << 10) -> list[tuple[Digest, int]]:
    dice = random.Random(seed)
    return [(Digest(dice.randbytes(32)), dice.randint(1, size)) for _ in range(count)]


def test_every_chunk_is_in_one_pack_in_order_and_packs_have_their_sizes() -> None:
    chunks = some_chunks(6000)
    packs = list(cut(chunks))
    assert [chunk for pack in packs for chunk in pack.chunks] == chunks
    assert len(packs) > 3
    for pack in packs[:-1]:
        assert LEAST_BYTES <= pack.size_bytes <= MOST_BYTES
    assert list(cut([])) == []


@given(st.integers(0, 2000), st.integers(1, 40))
def test_a_chunk_more_changes_the_packs_around_it_alone(at: int, extra: int) -> None:
    chunks = some_chunks(3000)
    changed = [*chunks[:at], *some_chunks(extra, seed=2), *chunks[at:]]
    before, after = ({pack.name for pack in cut(each)} for each in (chunks, changed))
    assert len(after - before) <= 4


def test_a_pack_of_large_chunks_is_no_longer_than_it_may_be() -> None:
    chunks = [(Digest(bytes(31) + bytes([n])), 1 << 20) for n in range(200)]
    assert max(pack.size_bytes for pack in cut(chunks)) <= MOST_BYTES


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(1, 1 << 20))))
def test_an_index_is_read_back(rows: list[tuple[bytes, int]]) -> None:
    index = PackIndex(tuple((Digest(digest), size) for digest, size in rows))
    assert PackIndex.decode(index.name, index.encode()) == index


@given(st.binary(max_size=200))
def test_bytes_that_are_no_index_of_that_name_are_refused(content: bytes) -> None:
    with pytest.raises(Damaged):
        PackIndex.decode(Digest(bytes(32)), content)
    if not content.startswith(b"dstack-pack-1\n"):
        with pytest.raises(Damaged):
            PackIndex.decode(digest_of(content), content)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60)), unique=True),
    st.integers(1, 500),
    st.integers(0, 100),
)
def test_spans_hold_what_is_wanted_and_little_else(
    wanted: list[tuple[str, int]], longest: int, gap: int
) -> None:
    places = [
        (Digest(f"{pack}{n:031}".encode()), Place(Digest(pack.encode() * 32), 10 * n, 10))
        for pack, n in wanted
    ]
    found = list(spans(places, longest, gap))
    assert [chunk for span in found for chunk in span.chunks] == places
    for span in found:
        for _, place in span.chunks:
            assert place.pack == span.pack
            assert span.begin <= place.offset < place.offset + place.length <= span.end
        assert span.end - span.begin <= max(longest, 10)
        useful = sum(place.length for _, place in span.chunks)
        assert span.end - span.begin - useful <= gap * (len(span.chunks) - 1)
