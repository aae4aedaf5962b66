"""Cuts files by content, so that an edit changes the chunks it touches and no others.

Rules: a file of at most `WHOLE_BYTES` is one chunk. Anything longer is cut by FastCDC (Xia et al.,
"The Design of Fast Content Defined Chunking", 2020) with the sizes below. Where a cut falls depends
on the bytes since the cut before it alone, so cutting block by block gives what cutting at once
gives.

The sizes: effect, how much of a file travels again after an edit; formula, an edit of 4 KiB costs
about one average chunk; trade-off, 36 bytes of manifest and one index row a chunk. 16 KiB sends 8 %
of a file with 1 % of scattered 4 KiB edits, 32 KiB 12 %, 64 KiB 21 %; cutting and hashing run at
2.1, 2.4 and 2.9 GB/s a core.
"""

from collections.abc import Callable, Iterator

MIN_BYTES = 8 << 10
AVERAGE_BYTES = 16 << 10
MAX_BYTES = 64 << 10
WHOLE_BYTES = AVERAGE_BYTES
BLOCK_BYTES = 4 << 20

ZEROS = memoryview(bytes(MAX_BYTES))
"""What zeros are cut into, however many there are."""


def _dense(_: int) -> int:
    return 0


def cut_blocks(
    read_at: Callable[[memoryview, int], int],
    zeros_at: Callable[[int], int] = _dense,
    size_bytes: int = BLOCK_BYTES,
) -> Iterator[list[memoryview]]:
    """The chunks of a file in batches, in constant memory.

    Args:
        read_at: Fills a buffer from an offset on and returns how much of it; 0 at the end.
        zeros_at: How many zeros follow an offset, as far as that is known without reading.
        size_bytes: How long the file probably is: a small one needs no large buffer.

    Yields:
        Views into one buffer, valid until the next batch is asked for; `ZEROS` itself for what was
        not read.
    """
    room_bytes = min(BLOCK_BYTES, max(size_bytes + 1, 2 * MAX_BYTES))
    buffer = memoryview(bytearray(room_bytes))
    start = filled = 0
    ended = False
    while not ended:
        if zeros := zeros_at(start) // MAX_BYTES:
            yield [ZEROS] * zeros
            start, filled = start + zeros * MAX_BYTES, 0
        while filled < room_bytes and not ended:
            count = read_at(buffer[filled:], start + filled)
            ended = count == 0
            filled += count
        batch, used = _cut_block(buffer[:filled], ended)
        if batch:
            yield batch
        buffer[: filled - used] = bytes(buffer[used:filled])
        start, filled = start + used, filled - used


def _cut_block(block: memoryview, last: bool) -> tuple[list[memoryview], int]:
    """Chunks of which no later byte can move the end, and how much of the block they are."""
    # Imported here: it costs 10 ms, and a command whose files are small or unchanged never cuts.
    from pyfastcdc import FastCDC

    cutter = FastCDC(AVERAGE_BYTES, min_size=MIN_BYTES, max_size=MAX_BYTES, normalized_chunking=2)
    batch: list[memoryview] = []
    used = 0
    for chunk in cutter.cut_buf(block):
        if not last and len(block) - used < MAX_BYTES:
            break
        batch.append(chunk.data)
        used += chunk.length
    return batch, used
