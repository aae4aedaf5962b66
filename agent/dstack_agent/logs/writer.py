"""Writes a journal. Standard library only: the shim imports it."""

import os
import time

from dstack_agent.logs.layout import (
    BLOCK_BYTES,
    HEADER_BYTES,
    PAYLOAD_BYTES,
    block_end,
    find_end,
    frame_start,
    pack_header,
)


class JournalWriter:
    """The only writer of a journal. Opening one that exists cuts its torn tail and goes on.

    Not safe for several threads, but `sync` may run beside `append`.

    Args:
        path: The journal; made if it does not exist.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._position, stdout, stderr = find_end(self._descriptor)
        os.ftruncate(self._descriptor, self._position)
        self._lengths = [stdout, stderr]
        self._synced = self._position

    @property
    def stdout_bytes(self) -> int:
        return self._lengths[0]

    @property
    def stderr_bytes(self) -> int:
        return self._lengths[1]

    @property
    def size_bytes(self) -> int:
        """What the journal takes on the disk."""
        return self._position

    def append(self, stream: int, data: bytes) -> None:
        """Adds bytes of a stream: visible to readers and safe from the death of any process.

        Raises:
            OSError: The disk is full or broken; what was written of the frame is cut off again.
        """
        if not data:
            self._write(stream, data)
        while data:
            start = frame_start(self._position)
            room = min(PAYLOAD_BYTES, block_end(start) - start - HEADER_BYTES)
            self._write(stream, data[:room])
            data = data[room:]

    def skip(self, stream: int, count: int) -> None:
        """Says that the next bytes of a stream are lost: readers see a hole. Raises OSError."""
        self._lengths[stream] += count
        try:
            self._write(stream, b"")
        except OSError:
            self._lengths[stream] -= count
            raise

    def sync(self) -> None:
        """Makes what was appended survive a loss of power. Raises OSError."""
        position = self._position
        if position != self._synced:
            os.fdatasync(self._descriptor)
            self._synced = position

    def close(self) -> None:
        """Makes everything durable and closes. Raises OSError."""
        try:
            self.sync()
        finally:
            os.close(self._descriptor)

    def _write(self, stream: int, payload: bytes) -> None:
        start = frame_start(self._position)
        stdout, stderr = self._lengths
        header = pack_header((stream, len(payload), stdout, stderr, time.time_ns()), payload)
        end = start + len(header) + len(payload)
        try:
            written = os.pwritev(self._descriptor, (header, payload), start)
            if written < end - start:
                _write_all(self._descriptor, (header + payload)[written:], start + written)
        except OSError:
            os.ftruncate(self._descriptor, self._position)
            raise
        self._position = end
        self._lengths[stream] += len(payload)


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data = data[written:]
        position += written


assert PAYLOAD_BYTES + HEADER_BYTES < BLOCK_BYTES
