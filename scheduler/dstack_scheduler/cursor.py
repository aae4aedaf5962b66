"""Where a reader is in the log of an attempt: every byte once, in order, or an explicit gap."""

from dataclasses import replace

from blake3 import blake3  # pyright: ignore[reportUnknownVariableType]

from dstack_mesh.ids import Digest
from dstack_scheduler.job import Fin, Gap, JobKey, LogFrame, LogStream


class Hole(Exception):
    """The agent skipped bytes without saying so. Read again from where the cursor is.

    Attributes:
        stream: Which stream.
        from_bytes: First byte that is missing.
        to_bytes: First byte that came instead.
    """

    def __init__(self, stream: LogStream, from_bytes: int, to_bytes: int) -> None:
        super().__init__(f"{stream.value}: {from_bytes} to {to_bytes}")
        self.stream = stream
        self.from_bytes = from_bytes
        self.to_bytes = to_bytes


class Cursor:
    """Reads both streams of one attempt.

    Args:
        key: Attempt 0 stands for the newest one, until the first event names it.
    """

    def __init__(self, key: JobKey, stdout_offset: int = 0, stderr_offset: int = 0) -> None:
        self.key = key
        self._offsets = {LogStream.STDOUT: stdout_offset, LogStream.STDERR: stderr_offset}
        # Only who read every byte from the first can know the hash.
        self._hashes = {stream: blake3() for stream, at in self._offsets.items() if at == 0}

    def offset(self, stream: LogStream) -> int:
        """First byte that was not read yet."""
        return self._offsets[stream]

    @property
    def offsets(self) -> tuple[int, int]:
        """First bytes of standard output and standard error that were not read yet."""
        return self._offsets[LogStream.STDOUT], self._offsets[LogStream.STDERR]

    def concerns(self, key: JobKey) -> bool:
        """Whether an event of this key is for this reader; the first one names the attempt."""
        if self.key.attempt == 0 and (key.run_id, key.job) == (self.key.run_id, self.key.job):
            self.key = key
        return key == self.key

    def frame(self, frame: LogFrame) -> LogFrame | None:
        """The part that is new; None if nothing is. Raises Hole."""
        at = self._offsets[frame.stream]
        if frame.offset_bytes > at:
            raise Hole(frame.stream, at, frame.offset_bytes)
        new = frame.data[at - frame.offset_bytes :]
        if not new:
            return None
        self._offsets[frame.stream] = at + len(new)
        if (running := self._hashes.get(frame.stream)) is not None:
            running.update(new)
        return frame if len(new) == len(frame.data) else replace(frame, offset_bytes=at, data=new)

    def gap(self, gap: Gap) -> Gap | None:
        """The part of the gap that concerns the reader; None if it read all that. Raises Hole."""
        at = self._offsets[gap.stream]
        if gap.from_bytes > at:
            raise Hole(gap.stream, at, gap.from_bytes)
        if gap.to_bytes <= at:
            return None
        self._offsets[gap.stream] = gap.to_bytes
        self._hashes.pop(gap.stream, None)
        return replace(gap, from_bytes=at)

    def skip(self, hole: Hole) -> Gap:
        """Gives a hole up: it becomes a gap."""
        self._offsets[hole.stream] = hole.to_bytes
        self._hashes.pop(hole.stream, None)
        reason = "the agent does not send these bytes"
        return Gap(self.key, hole.stream, hole.from_bytes, hole.to_bytes, reason)

    def fin(self, fin: Fin) -> list[Gap]:
        """What is wrong with what was read, as gaps; empty if all is well. Raises Hole."""
        wrong = (
            self._check(LogStream.STDOUT, fin.stdout_bytes, fin.stdout_digest),
            self._check(LogStream.STDERR, fin.stderr_bytes, fin.stderr_digest),
        )
        return [gap for gap in wrong if gap is not None]

    def _check(self, stream: LogStream, length: int, digest: Digest) -> Gap | None:
        at = self._offsets[stream]
        if at < length:
            raise Hole(stream, at, length)
        running = self._hashes.get(stream)
        if running is None or (at == length and running.digest() == digest):
            return None
        reason = "these bytes are not those that the job wrote: their hash differs"
        return Gap(self.key, stream, 0, at, reason)
