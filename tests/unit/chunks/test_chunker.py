"""Where cuts fall depends on content alone."""

import io
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.chunks import chunker
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.ids import Digest


def chunks_of(data: bytes, piece: int = 1 << 30) -> list[bytes]:
    """All chunks, from a reader that gives at most `piece` bytes at a time."""
    source = io.BytesIO(data)

    def read_at(room: memoryview, offset: int) -> int:
        source.seek(offset)
        return source.readinto(room[:piece])

    return [bytes(chunk) for batch in chunker.cut_blocks(read_at) for chunk in batch]


def digests_of(data: bytes) -> dict[Digest, int]:
    return {digest_of(chunk): len(chunk) for chunk in chunks_of(data)}


def new_bytes(before: bytes, after: bytes) -> int:
    """Bytes of chunks of `after` that `before` has not."""
    known = digests_of(before)
    return sum(size for digest, size in digests_of(after).items() if digest not in known)


@given(st.integers(0, 3 * chunker.BLOCK_BYTES), st.integers(1, 1 << 20), st.integers())
@settings(max_examples=15, deadline=None)
def test_chunks_joined_are_the_stream_however_it_is_read(size: int, piece: int, seed: int) -> None:
    data = random.Random(seed).randbytes(size)
    chunks = chunks_of(data, max(piece, 4096))
    assert b"".join(chunks) == data
    assert chunks == chunks_of(data)
    assert all(len(chunk) <= chunker.MAX_BYTES for chunk in chunks)
    assert all(len(chunk) >= chunker.MIN_BYTES for chunk in chunks[:-1])


def test_one_percent_of_scattered_edits_sends_at_most_a_tenth() -> None:
    dice = random.Random(7)
    before = dice.randbytes(32 << 20)
    after = bytearray(before)
    pages = len(before) // 4096
    for page in dice.sample(range(pages), pages // 100):
        after[page * 4096 : (page + 1) * 4096] = dice.randbytes(4096)
    assert new_bytes(before, bytes(after)) <= len(before) // 10


def test_bytes_in_front_send_little_more_than_themselves() -> None:
    dice = random.Random(8)
    before = dice.randbytes(8 << 20)
    assert new_bytes(before, dice.randbytes(100_000) + before) <= 100_000 + 4 * chunker.MAX_BYTES


def test_blocks_of_fixed_size_would_not_do() -> None:
    """The negative control of the test above."""
    dice = random.Random(8)
    before = dice.randbytes(8 << 20)
    after = dice.randbytes(100_000) + before
    before_blocks, after_blocks = (
        {data[at : at + 16384] for at in range(0, len(data), 16384)} for data in (before, after)
    )
    assert len(after_blocks - before_blocks) * 16384 > len(before) // 2
