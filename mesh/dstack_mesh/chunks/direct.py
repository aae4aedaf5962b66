"""Writes large files past the page cache.

The copy into the page cache is the dearest step of receiving, and the sync at the end would wait
for all of it. So a large file is gathered in aligned buffers that go straight to the disk, in a
thread, while the next buffer fills. Trade-off: the first read of the file comes from the disk.
Where the file system knows no direct writes, everything goes through the page cache as usual.
"""

import errno
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from dstack_mesh.chunks.laying import pwrite_all
from dstack_mesh.frozen import frozen

DIRECT_BYTES = 32 << 20
"""Files of this size are written directly. Smaller ones are soon synced and perhaps soon read."""

DIRECT_FLAG: int = getattr(os, "O_DIRECT", 0)
"""0 where the system has no such thing, as macOS."""

BUFFER_BYTES = 384 << 10
"""One write. Larger: fewer waits for the disk; smaller: a kill takes less, and what it takes
travels again."""

BUFFERS = 2
"""One fills, one is written."""

BLOCK_BYTES = 4096
"""Direct writes begin and end at multiples of this, which every disk takes."""

LEAST_BYTES = 256 << 10
"""A shorter run goes through the page cache, which joins it with its neighbours."""


@frozen
class _File:
    """A file that is written now; `direct` is a second handle of it, -1 if it cannot have one."""

    usual: int
    direct: int


class DirectWriter:
    """Writes one large file after the other. For one thread at a time.

    Call `end` before the file is read, renamed or synced by others.
    """

    def __init__(self, flag: int = DIRECT_FLAG) -> None:
        """Costs nothing until used. `flag` asks for direct writes; 0 for none."""
        self._flag = flag
        self._thread: ThreadPoolExecutor | None = None
        self._free: list[memoryview] = []
        self._busy: deque[tuple[Future[None], memoryview]] = deque()
        self._file: _File | None = None
        self._buffer = memoryview(b"")
        self._base = self._first = self._filled = 0

    def begin(self, file: int) -> None:
        """From now on `write` is for this open file."""
        self.end()
        self._file = _File(file, self._direct_handle(file))

    def _direct_handle(self, file: int) -> int:
        if not self._flag:
            return -1
        # Not by its name: what stands there may be another file by now.
        try:
            return os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_CLOEXEC | self._flag)
        except OSError:
            return -1

    def writes(self, file: int) -> bool:
        """Whether `write` is for this open file."""
        return self._file is not None and self._file.usual == file

    def write(self, data: memoryview, offset: int) -> None:
        """Takes bytes of the file. Raises OSError of this and earlier writes."""
        if offset != self._base + self._filled or not self._buffer:
            self._submit()
            self._take_buffer(offset)
        while data:
            count = min(BUFFER_BYTES - self._filled, len(data))
            self._buffer[self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == BUFFER_BYTES:
                self._submit()
                self._take_buffer(self._base + BUFFER_BYTES)

    def end(self) -> None:
        """Returns once the kernel has everything. Raises OSError of earlier writes."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            self._submit(file)
        finally:
            self._drain(file)

    def _drain(self, file: _File) -> None:
        """Waits for all writes, also after one that failed; then the file is let go of."""
        failed: BaseException | None = None
        while self._busy:
            written, buffer = self._busy.popleft()
            failed = failed or written.exception()
            self._free.append(buffer)
        if file.direct >= 0:
            os.close(file.direct)
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Lets go of everything; what was taken and not ended is dropped."""
        file, self._file = self._file, None
        while self._busy:
            self._busy.popleft()[0].exception()
        if file is not None and file.direct >= 0:
            os.close(file.direct)
        if self._thread is not None:
            self._thread.shutdown()

    def _take_buffer(self, offset: int) -> None:
        """A buffer for the bytes from there on."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "direct")
            self._free = [memoryview(mmap.mmap(-1, BUFFER_BYTES)) for _ in range(BUFFERS)]
        if not self._free:
            written, buffer = self._busy.popleft()
            self._free.append(buffer)
            written.result()
        self._buffer = self._free.pop()
        self._first = self._filled = offset % BLOCK_BYTES
        self._base = offset - self._first

    def _submit(self, file: _File | None = None) -> None:
        """Has the thread write what is gathered."""
        file = file or self._file
        buffer, self._buffer = self._buffer, memoryview(b"")
        if not buffer:
            return
        if self._filled == self._first:
            self._free.append(buffer)
            return
        assert file is not None and self._thread is not None
        piece = buffer[self._first : self._filled]
        offset = self._base + self._first
        self._busy.append((self._thread.submit(_put, file, piece, offset), buffer))


def _put(file: _File, data: memoryview, offset: int) -> None:
    """Writes whole blocks directly and the rest as usual."""
    head = -offset % BLOCK_BYTES
    tail = len(data) - (offset + len(data)) % BLOCK_BYTES
    if file.direct < 0 or tail - head < LEAST_BYTES:
        pwrite_all(file.usual, data, offset)
        return
    done = head + _put_blocks(file.direct, data[head:tail], offset + head)
    if head:
        pwrite_all(file.usual, data[:head], offset)
    if done < len(data):
        pwrite_all(file.usual, data[done:], offset + done)


def _put_blocks(direct: int, blocks: memoryview, offset: int) -> int:
    """How many bytes were taken; the rest goes the usual way, or says there what is wrong."""
    try:
        return os.pwrite(direct, blocks, offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0
