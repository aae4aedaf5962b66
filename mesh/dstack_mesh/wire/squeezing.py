"""Packs as zstd writes them, where that saves time: bytes that shrink, on a way that is slow.

What a sender makes ahead lies ready when the way out is slower than the sender, which then has time
to compress. When time and again nothing lies ready, the sender is what all wait for, and
compressing slows it down. That needs no clock, and no guess at what network this is.
"""

from collections.abc import Sequence

from dstack_mesh.faults import Invalid

LEVEL = 1
"""Of zstd. Higher levels shrink text by some per cent more and take twice as long and longer."""

SAMPLE_BYTES = 8 << 10
"""Of begin, middle and end of a pack: compressed first, to see what would come of the rest."""

WORTH = 0.9
"""A pack travels compressed if it takes at most this part of its size."""

LEAST_BYTES = 64 << 10
"""Smaller packs are sent as they are: loading zstd takes longer than they do."""

MOST_LATE = 8
"""So many packs in a row may be late for being compressed before that is given up. It costs some
milliseconds each where the network is fast; where it is slow, buffers may take the first few."""

MOST_PATIENCE = 256
"""Packs that must have lain ready before compressing is tried again where it held up the rest."""


class Squeeze:
    """Decides for the packs of one stream, in its task, and compresses them, in a thread.

    Args:
        earlier: Of the stream before to the same peer; this one begins with what was learnt there.
    """

    def __init__(self, earlier: "Squeeze | None" = None) -> None:
        # On while nothing is known: a pack too much costs milliseconds, one too few on a slow
        # network seconds.
        self._on = earlier is None or earlier._on
        self._compressed = False
        self._late = 0 if earlier is None else earlier._late
        self._in_time = 0 if earlier is None else earlier._in_time
        self._patience = 1 if earlier is None else earlier._patience

    def ready(self, in_time: bool) -> None:
        """Whether a pack lay ready when the way out was free for it."""
        self._in_time = self._in_time + 1 if in_time else 0
        self._late = self._late + 1 if self._compressed and not in_time else 0
        if self._on and self._late >= MOST_LATE:
            self._on, self._late = False, 0
            self._patience = min(2 * self._patience, MOST_PATIENCE)
        elif self._in_time >= self._patience:
            self._on = True

    def squeezed(self, pieces: Sequence[bytes]) -> bytes | None:
        """These bytes, one after the other, as one frame; None if they travel as they are."""
        frame = _compressed(pieces) if self._on else None
        self._compressed = frame is not None
        return frame


def unsqueezed(frame: bytes | memoryview, size: int) -> memoryview:
    """The bytes of a frame that anyone may have written.

    Args:
        frame: One frame and nothing after it.
        size: What the frame has to hold, in bytes. No more memory is taken, whatever it says.

    Raises:
        Invalid: It holds something else.
    """
    from zstandard import ZstdDecompressor, ZstdError, frame_content_size

    try:
        stated = frame_content_size(frame)
        if stated == size:
            data = ZstdDecompressor().decompress(frame, allow_extra_data=False)
            return memoryview(data)
    except ZstdError as error:
        raise Invalid("A compressed pack cannot be read.", str(error)) from error
    raise Invalid(
        "A compressed pack has not the size that it says.", f"{stated:,} bytes, not {size:,}."
    )


def _compressed(pieces: Sequence[bytes]) -> bytes | None:
    """One frame; None if it would not be worth it."""
    size = sum(map(len, pieces))
    if size < LEAST_BYTES:
        return None
    # Here, because most commands send nothing of that size and start faster without it.
    from zstandard import ZstdCompressor

    compressor = ZstdCompressor(LEVEL)
    sample = _sample(pieces)
    if len(compressor.compress(sample)) > WORTH * len(sample):
        return None
    frame = compressor.compress(b"".join(pieces))
    return frame if len(frame) <= WORTH * size else None


def _sample(pieces: Sequence[bytes]) -> bytes:
    middle = pieces[len(pieces) // 2]
    at = max(len(middle) - SAMPLE_BYTES, 0) // 2
    parts = pieces[0][:SAMPLE_BYTES], middle[at : at + SAMPLE_BYTES], pieces[-1][-SAMPLE_BYTES:]
    return b"".join(parts)
