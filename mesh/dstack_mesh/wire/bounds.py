"""How much of a transfer may be under way, and how long it may take."""

ASK_SECONDS = 60.0
"""Deadline of a question about many digests."""

SLOWEST_BYTES_PER_SECOND = 64 << 10
"""A stream's deadline is what it would take at this speed."""

WINDOW_BYTES = 16 << 20
"""Bytes that may be under way or unwritten. More than the fastest network holds, little memory."""


def deadline(size_bytes: int) -> float:
    """Seconds for a stream that brings so much."""
    return ASK_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND
