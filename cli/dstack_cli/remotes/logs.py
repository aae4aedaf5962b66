"""The log of a job as a tree of files, so that it travels and is kept as artifacts are.

`stdout` and `stderr` hold the bytes as the job wrote them; `frames` says in which order and when
they were read: for each frame its kind (1 byte: 0 stdout, 1 stderr, 2 and 3 the same where bytes
are lost), offset (u64), length (u32) and time in microseconds (u64), little-endian. Lost bytes are
zeros in the files.
"""

import asyncio
import struct
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dstack_mesh.chunks.digest import split_digests
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Damaged
from dstack_scheduler.job import Gap, JobKey, LogFrame, LogStream, LogTail
from dstack_scheduler.progress import Progress
from dstack_scheduler.pushed import PushedLog

ROW = struct.Struct("<BQIQ")
HELD_BYTES = 1 << 20
"""Frames are gathered to this much before they are written."""

FRAME_BYTES = 64 << 10
LOST = "lost before it was pushed"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_KINDS = {LogStream.STDOUT: 0, LogStream.STDERR: 1}
_STREAMS = {0: LogStream.STDOUT, 1: LogStream.STDERR}


class LogFiles:
    """Writes a log down as it is read; `saw` is told of it as a watcher is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[tuple[int, int, bytes, int, datetime]] = []
        self._held_bytes = 0
        for name in ("stdout", "stderr", "frames"):
            (folder / name).touch()

    async def saw(self, event: Progress) -> None:
        """Takes bytes, and bytes that are lost."""
        match event:
            case LogFrame():
                kind, data = _KINDS[event.stream], event.data
                self._held.append((kind, event.offset_bytes, data, len(data), event.at))
                self._held_bytes += len(data)
            case Gap():
                lost = event.to_bytes - event.from_bytes
                self._held.append((_KINDS[event.stream] + 2, event.from_bytes, b"", lost, EPOCH))
            case _:
                return
        if self._held_bytes >= HELD_BYTES:
            await self.flush()

    async def saw_tail(self, tail: LogTail) -> None:
        """Takes what is left of a log whose machine is gone."""
        ends = ((LogStream.STDOUT, tail.stdout_bytes, tail.stdout),)
        for stream, whole, data in (*ends, (LogStream.STDERR, tail.stderr_bytes, tail.stderr)):
            begin = whole - len(data)
            if begin:
                await self.saw(Gap(tail.key, stream, 0, begin, LOST))
            if data:
                await self.saw(LogFrame(tail.key, stream, begin, data, tail.at))

    async def flush(self) -> None:
        """Has everything in the files."""
        held, self._held, self._held_bytes = self._held, [], 0
        await asyncio.to_thread(self._write, held)

    def _write(self, held: Sequence[tuple[int, int, bytes, int, datetime]]) -> None:
        with (
            (self._folder / "frames").open("ab") as frames,
            (self._folder / "stdout").open("r+b") as stdout,
            (self._folder / "stderr").open("r+b") as stderr,
        ):
            for kind, offset, data, length, at in held:
                file = (stdout, stderr)[kind % 2]
                if kind < 2:
                    file.seek(offset)
                    file.write(data)
                else:
                    file.truncate(offset + length)
                # A job's clock may stand before there were clocks.
                moment = max(0, int((at - EPOCH) / timedelta(microseconds=1)))
                for begin in range(0, length, 0xFFFFFFFF):
                    size = min(length - begin, 0xFFFFFFFF)
                    frames.write(ROW.pack(kind, offset + begin, size, moment))


async def save_log(
    store: ChunkStore, key: JobKey, parent: Path, read: Callable[[LogFiles], Awaitable[object]]
) -> PushedLog:
    """The log of an attempt as a tree in our store.

    Args:
        parent: Where it may be written in between.
        read: Reads the log and tells of it.
    """
    with tempfile.TemporaryDirectory(prefix="log-", dir=parent) as folder:
        files = LogFiles(Path(folder))
        await read(files)
        await files.flush()
        saved = await asyncio.to_thread(save_tree, store, Path(folder))
    return PushedLog(key, saved.digest, saved.size_bytes)


def read_log(store: ChunkStore, log: PushedLog) -> Iterator[LogFrame | Gap]:
    """What a log in our store says, in the order in which it was read.

    Raises:
        Damaged: It is no log.
    """
    manifest = store.get_manifest(log.digest)
    rows = _File(store, manifest, "frames")
    files = (_File(store, manifest, "stdout"), _File(store, manifest, "stderr"))
    while row := rows.take(ROW.size):
        if len(row) < ROW.size:
            raise _no_log(log)
        kind, offset, length, moment = map(int, ROW.unpack(row))
        stream = _STREAMS.get(kind % 2)
        if kind > 3 or stream is None or (kind < 2 and length > FRAME_BYTES):
            raise _no_log(log)
        if kind > 1:
            files[kind % 2].skip(length)
            yield Gap(log.key, stream, offset, offset + length, LOST)
            continue
        try:
            at = EPOCH + timedelta(microseconds=moment)
        except OverflowError:
            raise _no_log(log) from None
        yield LogFrame(log.key, stream, offset, files[kind].take(length), at)


class _File:
    """A file of a tree, read from its beginning."""

    def __init__(self, store: ChunkStore, manifest: Manifest, name: str) -> None:
        entries = (one for one in manifest.entries if one.path == name)
        entry = next(entries, None)
        digests = split_digests(entry.digests) if isinstance(entry, FileEntry) else []
        self._chunks = store.read(digests)
        self._held = memoryview(b"")

    def take(self, count: int) -> bytes:
        """The next bytes; fewer at the end."""
        taken = bytearray()
        while len(taken) < count:
            if not self._held:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._held = chunk[1]
            wanted = count - len(taken)
            taken += self._held[:wanted]
            self._held = self._held[wanted:]
        return bytes(taken)

    def skip(self, count: int) -> None:
        """Leaves bytes out."""
        while count > 0:
            count -= len(self.take(min(count, HELD_BYTES))) or count


def _no_log(log: PushedLog) -> Damaged:
    return Damaged("What was pushed is no log.", log.digest.hex(), code="remote-record")
