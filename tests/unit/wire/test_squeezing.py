"""What shrinks travels compressed where the way is slow, and takes no more memory than it may."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zstandard import ZstdCompressor

from dstack_mesh.faults import Invalid
from dstack_mesh.wire.squeezing import LEAST_BYTES, MOST_LATE, MOST_PATIENCE, Squeeze, unsqueezed
from support.two_stores import MIB, noise

TEXT = b"".join(b"step %d, loss %.5f\n" % (step, 1 / (step + 1)) for step in range(20_000))


def is_on(squeeze: Squeeze) -> bool:
    return squeeze.squeezed([TEXT]) is not None


def test_text_shrinks_while_nothing_is_known_of_the_way() -> None:
    frame = Squeeze().squeezed([TEXT[:100_000], TEXT[100_000:]])
    assert frame is not None
    assert len(frame) < len(TEXT) / 2
    assert unsqueezed(frame, len(TEXT)) == TEXT


@pytest.mark.parametrize(
    "data", [noise(MIB), TEXT[: LEAST_BYTES - 1], b"", noise(MIB) + TEXT[:20_000]]
)
def test_what_does_not_shrink_travels_as_it_is(data: bytes) -> None:
    assert Squeeze().squeezed([data]) is None


def test_a_sample_that_promises_too_much_costs_no_bytes() -> None:
    # Text where the samples are taken, at the begin, in the middle and at the end.
    text = TEXT[: 8 << 10]
    data = text + noise(MIB) + text + noise(MIB, 2) + text
    assert Squeeze().squeezed([data]) is None


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 2000))
def test_what_was_compressed_is_read_again(pieces: list[bytes], times: int) -> None:
    data = b"".join(pieces * times)[:MIB]
    frame = Squeeze().squeezed([data])
    if frame is not None:
        assert len(frame) <= 0.9 * len(data)
        assert unsqueezed(frame, len(data)) == data


def test_a_sender_that_others_wait_for_compresses_no_more() -> None:
    squeeze = Squeeze()
    for _ in range(MOST_LATE):
        assert is_on(squeeze)
        squeeze.ready(False)
    assert not is_on(squeeze)


def test_a_pack_that_is_late_now_and_then_is_no_reason() -> None:
    squeeze = Squeeze()
    for number in range(10 * MOST_LATE):
        assert is_on(squeeze)
        squeeze.ready(number % MOST_LATE == 0)


def test_compressing_that_held_up_the_rest_is_tried_again_ever_later() -> None:
    squeeze = Squeeze()
    waited: list[int] = []
    for _ in range(10):
        count = 0
        while not is_on(squeeze):
            squeeze.ready(True)
            count += 1
        waited.append(count)
        for _ in range(MOST_LATE):
            squeeze.ready(False)
            is_on(squeeze)
    assert waited == [0, 2, 4, 8, 16, 32, 64, 128, MOST_PATIENCE, MOST_PATIENCE]


def test_packs_that_lie_ready_now_and_then_are_no_slow_network() -> None:
    squeeze = Squeeze()
    for _ in range(MOST_LATE):
        assert is_on(squeeze)
        squeeze.ready(False)
    for _ in range(50):
        squeeze.ready(True)
        squeeze.ready(False)
    assert not is_on(squeeze)


def test_bytes_that_do_not_shrink_are_not_late_for_being_compressed() -> None:
    squeeze = Squeeze()
    for _ in range(10 * MOST_LATE):
        assert squeeze.squeezed([noise(MIB)]) is None
        squeeze.ready(False)
    assert is_on(squeeze)


WHOLE = ZstdCompressor().compress(TEXT)
UNSIZED = ZstdCompressor(write_content_size=False).compress(TEXT)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"hello",
        UNSIZED,
        WHOLE[:-1],
        WHOLE + b"more",
        WHOLE + WHOLE,
        ZstdCompressor().compress(TEXT + b"a"),
        ZstdCompressor().compress(b""),
    ],
    ids=["empty", "none", "unsized", "cut", "more", "two", "larger", "nothing"],
)
def test_a_frame_that_holds_something_else_is_refused(frame: bytes) -> None:
    with pytest.raises(Invalid, match="compressed pack"):
        unsqueezed(frame, len(TEXT))


def test_a_bomb_takes_no_memory() -> None:
    bomb = ZstdCompressor().compress(bytes(256 * MIB))
    # A head that states a size of eight bytes, then an empty last block.
    boast = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + b"\x01\x00\x00"
    tracemalloc.start()
    for frame in (bomb, boast):
        with pytest.raises(Invalid):
            unsqueezed(frame, len(TEXT))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < MIB


@given(st.randoms(use_true_random=False))
def test_a_changed_frame_is_read_or_refused(chance: random.Random) -> None:
    frame = bytearray(WHOLE)
    for _ in range(chance.randint(1, 4)):
        frame[chance.randrange(len(frame))] = chance.randrange(256)
    try:
        assert len(unsqueezed(bytes(frame), len(TEXT))) == len(TEXT)
    except Invalid:
        return


def test_many_short_streams_to_one_peer_learn_what_a_long_one_learns() -> None:
    squeeze = Squeeze()
    for _ in range(MOST_LATE // 4):
        squeeze = Squeeze(squeeze)
        for _ in range(4):
            assert is_on(squeeze)
            squeeze.ready(False)
    assert not is_on(Squeeze(squeeze))
