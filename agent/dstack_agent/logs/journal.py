"""Reads the journal of a job: from any offset, while it grows, in the order it was written."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dstack_agent.logs.layout import (
    BLOCK_BYTES,
    HEADER_BYTES,
    STDOUT,
    Header,
    block_end,
    find_end,
    frame_start,
    header_at,
)
from dstack_mesh.ids import Digest
from dstack_scheduler.job import LogStream

_STREAMS = (LogStream.STDOUT, LogStream.STDERR)


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes of a stream at an absolute offset; at most 64 KiB. `at_ns` is the time of day."""

    stream: LogStream
    offset: int
    data: bytes
    at_ns: int

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Hole:
    """Bytes [offset, end) of a stream that nobody has: the disk was full or is damaged."""

    stream: LogStream
    offset: int
    end: int


@dataclass(slots=True)
class _Place:
    """A place in the file, and where both streams stand there."""

    position: int = 0
    stdout: int = 0
    stderr: int = 0

    def before(self, stdout: int, stderr: int) -> bool:
        return self.stdout <= stdout and self.stderr <= stderr

    def lengths(self) -> tuple[int, int]:
        return self.stdout, self.stderr


class JournalReader:
    """Reads a journal that may not exist yet, may grow, and may end torn: then it ends before that.

    Remembers where it was, so following a log costs what is new. Use one per reader; it is not safe
    for several threads at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._place = _Place()

    def read(
        self, stdout_from: int = 0, stderr_from: int = 0, limit: int = 1 << 20
    ) -> list[Frame | Hole]:
        """What there is from these offsets on, in the order it was written.

        Stops after the frame that reaches `limit` bytes. Empty: nothing more is there yet.
        """
        descriptor = self._open()
        if descriptor is None:
            return []
        if self._place.lengths() != (stdout_from, stderr_from):
            self._seek(descriptor, stdout_from, stderr_from)
        found: list[Frame | Hole] = []
        total = 0
        for piece in self._pieces(descriptor, stdout_from, stderr_from):
            found.append(piece)
            total += len(piece.data) if isinstance(piece, Frame) else 0
            if total >= limit:
                break
        return found

    def lengths(self) -> tuple[int, int]:
        """Bytes of stdout and of stderr so far, holes counted. Reads one block."""
        descriptor = self._open()
        return (0, 0) if descriptor is None else find_end(descriptor)[1:]

    def digests(self) -> tuple[Digest, Digest]:
        """BLAKE3 of all of stdout and of all of stderr; reads the whole journal."""
        from blake3 import blake3  # only the agent has it installed

        hashers = {stream: blake3() for stream in LogStream}
        reader = JournalReader(self._path)
        stdout = stderr = 0
        while pieces := reader.read(stdout, stderr, limit=4 << 20):
            for piece in pieces:
                if isinstance(piece, Frame):
                    hashers[piece.stream].update(piece.data)
            stdout, stderr = reader._place.lengths()
        reader.close()
        return (
            Digest(hashers[LogStream.STDOUT].digest()),
            Digest(hashers[LogStream.STDERR].digest()),
        )

    def close(self) -> None:
        """Closes the file. Reading again opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int | None:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        return self._descriptor

    def _seek(self, descriptor: int, stdout: int, stderr: int) -> None:
        """Goes to the last boundary before both offsets; stays where that is no further."""
        low, high = 0, max(os.fstat(descriptor).st_size - 1, 0) // BLOCK_BYTES
        best = _Place()
        while low < high:
            middle = (low + high + 1) // 2
            place = _first_place(descriptor, middle * BLOCK_BYTES)
            if place is not None and place.before(stdout, stderr):
                low, best = middle, place
            else:
                high = middle - 1
        if not self._place.before(stdout, stderr) or self._place.position < best.position:
            self._place = best

    def _pieces(self, descriptor: int, stdout: int, stderr: int) -> Iterator[Frame | Hole]:
        place = self._place
        expected = _Place(0, stdout, stderr)
        while True:
            start = frame_start(place.position)
            block = os.pread(descriptor, block_end(start) - start, start)
            used = 0
            while (header := header_at(block, used)) is not None:
                body = used + HEADER_BYTES
                used = body + header[1]
                place.position = start + used
                _advance(place, header)
                yield from _take(expected, header, block[body:used])
            if not self._goes_on(descriptor, start, start + used):
                return

    def _goes_on(self, descriptor: int, start: int, reached: int) -> bool:
        """Whether there is a later block to read; then what is left of this one is damaged."""
        end = block_end(start)
        if end - reached <= HEADER_BYTES:
            return os.fstat(descriptor).st_size > end
        if _first_place(descriptor, end) is None:
            return False
        # A frame that was half written when the block was read is whole by now: not damage.
        if header_at(os.pread(descriptor, end - reached, reached), 0) is None:
            self._place.position = end
        return True


def _first_place(descriptor: int, position: int) -> _Place | None:
    header = header_at(os.pread(descriptor, BLOCK_BYTES, position), 0)
    return None if header is None else _Place(position, header[2], header[3])


def _take(expected: _Place, header: Header, data: bytes) -> Iterator[Frame | Hole]:
    """What a frame tells a reader that expects the streams to go on at these offsets."""
    stream, _, stdout, stderr, at_ns = header
    if expected.stdout < stdout:
        yield Hole(LogStream.STDOUT, expected.stdout, stdout)
        expected.stdout = stdout
    if expected.stderr < stderr:
        yield Hole(LogStream.STDERR, expected.stderr, stderr)
        expected.stderr = stderr
    offset, wanted = (stdout, expected.stdout) if stream == STDOUT else (stderr, expected.stderr)
    if offset + len(data) > wanted:
        _advance(expected, header)
        yield Frame(_STREAMS[stream], wanted, data[wanted - offset :], at_ns)


def _advance(place: _Place, header: Header) -> None:
    stream, size, stdout, stderr, _ = header
    if stream == STDOUT:
        place.stdout, place.stderr = stdout + size, max(stderr, place.stderr)
    else:
        place.stdout, place.stderr = max(stdout, place.stdout), stderr + size
