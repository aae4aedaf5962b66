"""Reads an attempt's log for one reader: in order, in pieces that are worth a message.

A message costs a hundred times what a line costs, so bytes of one stream that lie side by side
travel together: up to 64 KiB to a reader that acknowledges, less to one that does not. At the end
of what is there, a line goes out at once; a piece of a line waits for the rest of it,
`PATIENCE_SECONDS` at most.
"""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

from dstack_agent.logs.journal import Frame, Hole, JournalReader
from dstack_mesh.frozen import frozen
from dstack_scheduler.job import LogStream

TRUSTED_BYTES = 4 << 20
"""May be on the way to a reader: it acknowledges each quarter of a megabyte that it has read."""

PATIENCE_SECONDS = 0.1
"""Longer: fewer messages for jobs that write letter by letter; shorter: prompts show sooner."""

BUSY_BYTES = 64 * 1024
"""After a read of so much, more is expected, and it pays to read in a thread."""


@frozen
class Portion:
    """How much goes to a reader at a time.

    Attributes:
        piece_bytes: In a message, which costs four times as much while nobody reads it.
        batch_bytes: Read from the log at once, which is held meanwhile.
    """

    piece_bytes: int
    batch_bytes: int


TRUSTED = Portion(64 * 1024, 128 * 1024)
"""For who acknowledges. 256 streams that nobody reads after all cost 80 MiB; a batch of a megabyte
would save a third of the time of a log that is there already, and cost 300 MiB."""

CAREFUL = Portion(16 * 1024, 64 * 1024)
"""For who has not acknowledged anything yet or not for long: 256 such streams cost 32 MiB."""

Piece = Frame | Hole


class Tail:
    """What one reader has not been sent yet.

    Args:
        journal: The log.
        stdout: First byte wanted of standard output.
        stderr: First byte wanted of standard error.
    """

    def __init__(self, journal: Path, stdout: int, stderr: int) -> None:
        self._reader = JournalReader(journal)
        self._at = {LogStream.STDOUT: stdout, LogStream.STDERR: stderr}
        self._held: list[Frame] = []
        self._busy = False
        self._acked: int | None = None

    def acknowledged(self, stdout: int, stderr: int) -> None:
        """The reader has both streams up to there."""
        self._acked = stdout + stderr

    @property
    def portion(self) -> Portion:
        """What fits the reader now."""
        if self._acked is None:
            return CAREFUL
        on_the_way = sum(self._at.values()) - self._acked
        return TRUSTED if 0 <= on_the_way <= TRUSTED_BYTES else CAREFUL

    async def read(self) -> list[Piece]:
        """The next pieces; empty at the end of what is there."""
        found = await asyncio.to_thread(self._read) if self._busy else self._read()
        for piece in found:
            self._at[piece.stream] = piece.end
        self._busy = sum(len(piece.data) for piece in found if isinstance(piece, Frame)) >= (
            BUSY_BYTES
        )
        return found

    def due(self, found: list[Piece]) -> list[Piece]:
        """What of these pieces and those kept back goes out now; keeps a line's beginning."""
        if any(isinstance(piece, Hole) or b"\n" in piece.data for piece in found) or self._busy:
            held, self._held = self._held, []
            return list(join([*held, *found], self.portion.piece_bytes))
        self._held += [piece for piece in found if isinstance(piece, Frame)]
        if sum(len(piece.data) for piece in self._held) >= self.portion.piece_bytes:
            return self.flush()
        return []

    @property
    def holding(self) -> bool:
        """Whether something is kept back."""
        return bool(self._held)

    def flush(self) -> list[Piece]:
        """All that was kept back."""
        held, self._held = self._held, []
        return list(join(held, self.portion.piece_bytes))

    def close(self) -> None:
        """Lets go of the file."""
        self._reader.close()

    def _read(self) -> list[Piece]:
        stdout, stderr = self._at[LogStream.STDOUT], self._at[LogStream.STDERR]
        return self._reader.read(stdout, stderr, self.portion.batch_bytes)


def join(pieces: Iterable[Piece], most: int) -> Iterator[Piece]:
    """The same bytes in the same order, neighbours of one stream together, at most so many bytes
    a piece.
    """
    group: list[Frame] = []
    size = 0
    for piece in cut(pieces, most):
        fits = (
            isinstance(piece, Frame)
            and group
            and piece.stream is group[-1].stream
            and piece.offset == group[-1].end
            and size + len(piece.data) <= most
        )
        if not fits and group:
            yield _joined(group)
            group, size = [], 0
        if isinstance(piece, Frame):
            group.append(piece)
            size += len(piece.data)
        else:
            yield piece
    if group:
        yield _joined(group)


def cut(pieces: Iterable[Piece], most: int) -> Iterator[Piece]:
    """The same bytes in the same order, in pieces of at most so many bytes."""
    for piece in pieces:
        if isinstance(piece, Hole) or len(piece.data) <= most:
            yield piece
            continue
        for start in range(0, len(piece.data), most):
            data = piece.data[start : start + most]
            yield Frame(piece.stream, piece.offset + start, data, piece.at_ns)


def _joined(group: list[Frame]) -> Frame:
    first = group[0]
    if len(group) == 1:
        return first
    return Frame(first.stream, first.offset, b"".join(each.data for each in group), first.at_ns)
