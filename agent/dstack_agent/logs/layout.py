"""How a journal lies on disk: frames in blocks. Standard library only: the shim imports it.

A frame is a header and at most 64 KiB of one stream, as one read of the pipe gave them. The header
carries where both streams stand before the frame, so any frame alone says where a reader is; a jump
is a hole. Frames never cross a boundary of 256 KiB: a reader starts at any boundary without an
index, bytes of a job can never be taken for a header, and damage costs one block at most. What is
too short for a frame before a boundary is left zero.
"""

import os
import struct
import zlib

MAGIC = b"DSJ1"
BLOCK_BYTES = 256 * 1024
PAYLOAD_BYTES = 64 * 1024
STDOUT = 0
STDERR = 1

_FIELDS = struct.Struct("<4sB3xIQQq")
_CRC = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CRC.size

Header = tuple[int, int, int, int, int]
"""Stream, payload bytes, stdout bytes before it, stderr bytes before it, time in nanoseconds."""


def pack_header(header: Header, payload: bytes) -> bytes:
    """The header of a frame, with the checksum over itself and the payload."""
    stream, size, stdout, stderr, at_ns = header
    fields = _FIELDS.pack(MAGIC, stream, size, stdout, stderr, at_ns)
    return fields + _CRC.pack(zlib.crc32(payload, zlib.crc32(fields)))


def header_at(block: bytes, start: int) -> Header | None:
    """The header of the whole, undamaged frame that starts there; None if there is none."""
    body = start + HEADER_BYTES
    if body > len(block):
        return None
    magic, stream, size, stdout, stderr, at_ns = _FIELDS.unpack_from(block, start)
    end = body + size
    if magic != MAGIC or stream > STDERR or size > PAYLOAD_BYTES or end > len(block):
        return None
    (crc,) = _CRC.unpack_from(block, start + _FIELDS.size)
    seen = zlib.crc32(block[start : start + _FIELDS.size])
    if zlib.crc32(memoryview(block)[body:end], seen) != crc:
        return None
    return stream, size, stdout, stderr, at_ns


def block_end(position: int) -> int:
    """The boundary that a frame at the position must not cross."""
    return (position // BLOCK_BYTES + 1) * BLOCK_BYTES


def frame_start(position: int) -> int:
    """Where the next frame starts: here, or behind the boundary if there is no room before it."""
    end = block_end(position)
    return end if end - position <= HEADER_BYTES else position


def find_end(descriptor: int) -> tuple[int, int, int]:
    """Behind the last whole frame: its position in the file, and the lengths of both streams.

    Reads one block, or a few where the tail is torn.
    """
    size = os.fstat(descriptor).st_size
    for start in range(max(size - 1, 0) // BLOCK_BYTES * BLOCK_BYTES, -1, -BLOCK_BYTES):
        found = _end_in_block(os.pread(descriptor, BLOCK_BYTES, start))
        if found is not None:
            position, stdout, stderr = found
            return start + position, stdout, stderr
    return 0, 0, 0


def _end_in_block(block: bytes) -> tuple[int, int, int] | None:
    position = 0
    found: tuple[int, int, int] | None = None
    while (header := header_at(block, position)) is not None:
        stream, size, stdout, stderr, _ = header
        position += HEADER_BYTES + size
        found = (
            position,
            stdout + (size if stream == STDOUT else 0),
            stderr + (size if stream == STDERR else 0),
        )
    return found
