"""Writes the audit log: files of a bounded size in a folder, readable by the owner alone.

A line is in the file when `write` returns, so no death of the process loses it, and on the disk
after the next `sync`. What a writer that was killed left half written is cut by the next one.
"""

import contextlib
import logging
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from dstack_agent.audit.chain import Head, digest_of
from dstack_agent.audit.entry import Entry, Line, line_of
from dstack_agent.audit.reading import HEAD, read_head, segments_in
from dstack_mesh.faults import Invalid

log = logging.getLogger(__name__)

SEGMENT_BYTES = 1 << 20
"""A file that has so much is followed by the next one."""

MOST_SEGMENTS = 16
"""Files that are kept. Refused calls alone would fill them in a month."""


class AuditLog:
    """The only writer of a log. Use from one thread; `sync` may run in another one.

    Args:
        folder: Made if it does not exist.
        now: The time of day.
        segment_bytes: Of a file.
        most: Files that are kept.
    """

    def __init__(
        self,
        folder: Path,
        now: Callable[[], datetime],
        segment_bytes: int = SEGMENT_BYTES,
        most: int = MOST_SEGMENTS,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._now = now
        self._segment_bytes = segment_bytes
        self._most = most
        self._lost = 0
        self._written = self._synced = 0
        self._head = self._found()
        paths = segments_in(folder)
        self._file = _open(paths[-1] if paths else self._path(self._head.seq + 1))
        self._head_file = _open(folder / HEAD)
        self._folder_file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._ended: tuple[int, ...] = ()
        self._size = os.fstat(self._file).st_size

    def write(self, entry: Entry) -> None:
        """Adds a line. A disk that takes none is said in the agent's log, and in the next line."""
        if self._size >= self._segment_bytes:
            self._begin_segment()
        head = self._head
        line = Line(head.seq + 1, self._now(), entry, head.digest, self._lost).encoded()
        try:
            self._append(line)
        except OSError as error:
            if not self._lost:
                log.error("the audit log cannot be written: %s", error)
            self._lost += 1
            return
        self._head, self._lost = Head(head.seq + 1, digest_of(line)), 0
        self._written += 1
        with contextlib.suppress(OSError):  # the log may be a line ahead of its head
            os.pwrite(self._head_file, f"{self._head.seq:020d} {self._head.digest}\n".encode(), 0)

    @property
    def head(self) -> Head:
        """The last line."""
        return self._head

    @property
    def unsafe(self) -> bool:
        """Whether a power loss would take something that was written."""
        return self._written != self._synced

    def sync(self) -> None:
        """Has everything that was written survive a power loss. Blocks. Raises OSError."""
        written, ended = self._written, self._ended
        if not self.unsafe:
            return
        for file in (*ended, self._file, self._head_file, self._folder_file):
            os.fsync(file)
        self._ended = self._ended[len(ended) :]
        for file in ended:
            os.close(file)
        self._synced = written

    def close(self) -> None:
        """Makes what was written durable and ends."""
        with contextlib.suppress(OSError):
            self.sync()
        for file in (*self._ended, self._file, self._head_file, self._folder_file):
            os.close(file)

    def _append(self, line: bytes) -> None:
        """Writes a whole line or nothing. Raises OSError."""
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError("it takes no whole line: is the disk full?")
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _begin_segment(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: the file that is there grows on
            following = _open(self._path(self._head.seq + 1))
            self._ended = (*self._ended, self._file)  # `sync` may be using it
            self._file, self._size = following, 0
            for path in segments_in(self._folder)[: -self._most]:
                path.unlink()

    def _found(self) -> Head:
        """The last whole line that is there; cuts what a killed writer left after it."""
        paths = segments_in(self._folder)
        for path in reversed(paths):
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if path is paths[-1] and len(whole) < len(data):
                os.truncate(path, len(whole))
            if whole:
                return self._head_of(whole.splitlines()[-1])
        return Head(0, "")

    def _head_of(self, encoded: bytes) -> Head:
        try:
            seq = line_of(encoded).seq
        except Invalid:  # somebody altered it, which the reader says; the log goes on
            known = read_head(self._folder)
            seq = 0 if known is None else known.seq
        return Head(seq, digest_of(encoded))

    def _path(self, seq: int) -> Path:
        return self._folder / f"{seq:012d}.jsonl"


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if path.name == HEAD else os.O_APPEND)
    return os.open(path, flags, 0o600)
