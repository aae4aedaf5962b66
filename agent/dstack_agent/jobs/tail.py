"""Reads an attempt's log for one reader: in order, in pieces that are worth a message.

A message costs a hundred times what a line costs, so bytes of one stream that lie side by side
travel together, up to 64 KiB. At the end of what is there, a line goes out at once; a piece of a
line waits for the rest of it, `PATIENCE_SECONDS` at most.
"""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

from dstack_agent.logs.journal import Frame, Hole, JournalReader
from dstack_scheduler.job import LogStream

PIECE_BYTES = 64 * 1024
BATCH_BYTES = 1 << 20
PATIENCE_SECONDS = 0.1
"""Longer: fewer messages for jobs that write letter by letter; shorter: prompts show sooner."""

BUSY_BYTES = 128 * 1024
"""After a read of so much, more is expected, and it pays to read in a thread."""

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
            return list(join([*self.flush(), *found]))
        self._held += [piece for piece in found if isinstance(piece, Frame)]
        if sum(len(piece.data) for piece in self._held) >= PIECE_BYTES:
            return self.flush()
        return []

    @property
    def holding(self) -> bool:
        """Whether something is kept back."""
        return bool(self._held)

    def flush(self) -> list[Piece]:
        """All that was kept back."""
        held, self._held = self._held, []
        return list(join(held))

    def close(self) -> None:
        """Lets go of the file."""
        self._reader.close()

    def _read(self) -> list[Piece]:
        return self._reader.read(
            self._at[LogStream.STDOUT], self._at[LogStream.STDERR], BATCH_BYTES
        )


def join(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same bytes in the same order, neighbours of one stream together up to 64 KiB."""
    group: list[Frame] = []
    size = 0
    for piece in pieces:
        fits = (
            isinstance(piece, Frame)
            and group
            and piece.stream is group[-1].stream
            and piece.offset == group[-1].end
            and size + len(piece.data) <= PIECE_BYTES
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


def _joined(group: list[Frame]) -> Frame:
    first = group[0]
    if len(group) == 1:
        return first
    return Frame(first.stream, first.offset, b"".join(each.data for each in group), first.at_ns)
