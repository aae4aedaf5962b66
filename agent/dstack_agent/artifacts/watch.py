"""Hears that something changed below folders, by inotify.

What changed is not told: whoever hears it looks. A folder is watched through its handle, so that no
link which a job puts in its place is followed. Writes through a memory map and those of other
machines on a network disk are not heard, nor is anything where the kernel has no more watches to
give: look now and then unasked, and oftener where `complete` is false.
"""

import asyncio
import ctypes
import os
import struct
import sys
import threading
from contextlib import suppress

MOST_FOLDERS = 8192
"""Folders that are watched of one job. Each takes about 1 KiB of the kernel's memory."""

_CHANGED = 0x002 | 0x004 | 0x008 | 0x040 | 0x080 | 0x100 | 0x200 | 0x400 | 0x800
"""Written, attributes, closed after writing, moved away, moved here, made, removed, the folder
itself removed or moved."""

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_ONLY_FOLDERS = 0x01000000
_GONE = 0x8000
_HEAD = struct.Struct("iIII")
_ROOM = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """The folders of one job. `begin` and `heed` may be called in a thread, also of one that goes
    on after `close`."""

    def __init__(self, most: int = MOST_FOLDERS, system: str = sys.platform) -> None:
        """Costs a file handle; watches nothing yet, then `most` folders; none where the
        system is not Linux."""
        self._lock = threading.Lock()
        self._most = most
        self._file = int(_libc.inotify_init1(_FLAGS)) if system == "linux" else -1
        self._folders: set[int] = set()
        self.complete = False

    def begin(self) -> None:
        """A look at all folders begins: what was heard before it is forgotten."""
        with self._lock, suppress(BlockingIOError):
            self.complete = self._file >= 0
            while self._file >= 0:
                self._folders.difference_update(_gone(os.read(self._file, _ROOM)))

    def heed(self, handle: int) -> None:
        """Watches an open folder from now on; again is harmless."""
        path = f"/proc/self/fd/{handle}".encode()
        with self._lock:
            if not self.complete or len(self._folders) >= self._most:
                self.complete = False
                return
            number = int(_libc.inotify_add_watch(self._file, path, _CHANGED | _ONLY_FOLDERS))
            if number < 0:
                self.complete = False
            else:
                self._folders.add(number)

    async def changed(self) -> None:
        """Returns when something changed since the last `begin`. However much changes, it costs
        one wake-up."""
        if self._file < 0:
            await asyncio.Event().wait()
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._file, heard.set)
        try:
            await heard.wait()
        finally:
            loop.remove_reader(self._file)

    def close(self) -> None:
        """Watches nothing any more."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self.complete = -1, False


def _gone(events: bytes) -> set[int]:
    """The watches that ended with their folders."""
    found: set[int] = set()
    at = 0
    while at < len(events):
        number, mask, _, length = _HEAD.unpack_from(events, at)
        if mask & _GONE:
            found.add(number)
        at += _HEAD.size + length
    return found
