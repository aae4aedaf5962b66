"""Who is asked for which piece: each once of those who have it all, and nobody waits for ever."""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.sharing import PATIENCE_SECONDS, SMALLEST_BYTES, Piece, Sharing, cut
from dstack_mesh.ids import Digest, PeerId

CHUNK_BYTES = 1 << 16


def tree(pieces: int) -> dict[Digest, int]:
    """The chunks of one that is cut into so many pieces."""
    chunks = pieces * (SMALLEST_BYTES // CHUNK_BYTES)
    return {digest_of(str(number).encode()): CHUNK_BYTES for number in range(chunks)}


@dataclass
class Taker:
    """One that brings a tree; `asleep` takers ask nobody and give nothing."""

    peer: PeerId
    sharing: Sharing
    pieces: frozenset[int]
    asleep: bool = False
    there: set[int] = field(default_factory=set[int])


def takers(count: int, pieces: int) -> list[Taker]:
    sizes = tree(pieces)
    cuts = cut(sizes, sizes)
    assert len(cuts) == pieces
    numbers = frozenset(piece.number for piece in cuts)
    names = [PeerId(f"peer-{index}") for index in range(count)]
    return [Taker(name, Sharing(name, cuts), numbers) for name in names]


def step(all_of_them: list[Taker], one: Taker, now: float) -> int:
    """One taker does one thing; how many pieces the holder sent."""
    awake = [other for other in all_of_them if other is not one and not other.asleep]
    for other in awake:
        lacking = {piece.number for piece in one.sharing.lacking}
        one.sharing.has(other.peer, other.there & lacking)
        piece = one.sharing.from_taker(other.peer)
        if piece is not None:
            one.there.add(piece.number)
            one.sharing.came(piece, other.peer, now)
            return 0
    piece = one.sharing.from_holder(now)
    if piece is None:
        return 0
    one.there.add(piece.number)
    one.sharing.came(piece, None, now)
    return 1


@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**32))
def test_the_holder_sends_each_piece_once_however_many_take_it(
    count: int, pieces: int, seed: int
) -> None:
    everybody, lot = takers(count, pieces), Random(seed)
    for one in everybody:
        one.sharing.joined([other.peer for other in everybody], 0.0)
    sent, now = 0, 0.0
    while not all(one.sharing.done for one in everybody):
        now += 0.01
        sent += step(everybody, lot.choice(everybody), now)
        assert now < PATIENCE_SECONDS * 100
    assert sent == pieces
    assert all(one.there == one.pieces for one in everybody)


@given(st.integers(1, 30), st.integers(0, 1000))
def test_takers_that_come_one_after_the_other_cost_the_holder_nothing(count: int, at: int) -> None:
    first, second = takers(2, count)
    while not first.sharing.done:
        assert step([first], first, 0.0) == 1
    second.sharing.joined([first.peer], 1.0)
    while not second.sharing.done:
        assert step([first, second], second, 1.0 + at / 1000) == 0


@given(st.integers(2, 6), st.integers(1, 30))
def test_a_taker_that_sleeps_holds_nobody_up(count: int, pieces: int) -> None:
    everybody = takers(count, pieces)
    everybody[0].asleep = True
    for one in everybody:
        one.sharing.joined([other.peer for other in everybody], 0.0)
    awake, sent, now = everybody[1:], 0, 0.0
    while not all(one.sharing.done for one in awake):
        now += 0.1
        for one in awake:
            sent += step(everybody, one, now)
        assert now < 3 * PATIENCE_SECONDS
    assert pieces <= sent <= 2 * pieces


def test_without_sharing_the_holder_sends_everything_to_everybody() -> None:
    """The negative control of the count."""
    everybody, sent = takers(3, 5), 0
    for one in everybody:
        while not one.sharing.done:
            sent += step([one], one, 0.0)
    assert sent == 15


def test_pieces_are_the_same_for_takers_that_lack_different_parts() -> None:
    sizes = tree(8)
    whole, half = cut(sizes, sizes), cut(sizes, list(sizes)[::2])
    assert [(one.number, one.name) for one in whole] == [(one.number, one.name) for one in half]
    assert [len(one.digests) for one in half] == [len(one.digests) // 2 for one in whole]
    assert cut(sizes, ()) == []


def test_a_taker_that_has_not_what_it_says_is_asked_for_it_once() -> None:
    one, other = takers(2, 4)
    one.sharing.joined([other.peer], 0.0)
    refused = set[int]()
    for _ in range(10):
        one.sharing.has(other.peer, one.pieces)
        while (piece := one.sharing.from_taker(other.peer)) is not None:
            assert piece.number not in refused
            refused.add(piece.number)
            one.sharing.failed(piece)
            one.sharing.lacks(other.peer, piece)
    assert refused == one.pieces
    for _ in one.pieces:  # nobody waits for it any more
        piece = one.sharing.from_holder(0.1)
        assert piece is not None
        one.sharing.came(piece, None, 0.1)
    assert one.sharing.done


def test_a_taker_that_says_what_it_has_and_gives_nothing_is_late() -> None:
    one, other = takers(2, 4)
    one.sharing.joined([other.peer], 0.0)
    now = 0.0
    while now <= PATIENCE_SECONDS:
        one.sharing.has(other.peer, one.pieces)
        assert one.sharing.from_holder(now) is None
        piece = one.sharing.from_taker(other.peer)
        assert piece is not None
        one.sharing.failed(piece)  # it is busy
        one.sharing.has(other.peer, ())
        now += 0.3
    one.sharing.has(other.peer, one.pieces)
    assert one.sharing.from_holder(now) is not None


def test_a_piece_that_did_not_come_is_asked_for_again() -> None:
    [one] = takers(1, 1)
    piece = one.sharing.from_holder(0.0)
    assert isinstance(piece, Piece)
    assert not one.sharing.done
    one.sharing.failed(piece)
    assert one.sharing.from_holder(1.0) == piece
