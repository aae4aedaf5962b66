"""Where a shim puts what a job wrote. Standard library only: the shim imports it."""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH119

import _thread
import errno
import os
import time
from collections.abc import Callable

from dstack_agent.executor.record import JOURNAL
from dstack_agent.logs.address import socket_address
from dstack_agent.logs.writer import JournalWriter

_SYNC_SECONDS = 0.5
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Output:
    """The journal of a job, the poke that tells the agent that it grew, and its fdatasync.

    A disk that is full or broken never blocks the job's pipes: bytes are counted as lost from then
    on and `trouble` says why.

    Args:
        folder: The job's folder.
        wake: The agent's datagram socket; empty for none.
    """

    def __init__(self, folder: str, wake: str) -> None:
        self._journal = JournalWriter(f"{folder}/{JOURNAL}")
        self._name = os.path.basename(folder).encode()
        self._wake = wake
        self._poke = _no_poke
        self._lost = [0, 0]
        self._closed = _thread.allocate_lock()
        self.trouble = ""
        self.full = False

    def start(self) -> None:
        """Begins to sync and to poke; call it once the job was forked off."""
        if self._wake:
            self._poke = _poker(self._wake, self._name)
        _thread.start_new_thread(self._keep_synced, ())

    @property
    def lengths(self) -> tuple[int, int]:
        """Bytes of stdout and stderr in the journal."""
        return self._journal.stdout_bytes, self._journal.stderr_bytes

    @property
    def lost_bytes(self) -> int:
        return sum(self._lost)

    def write(self, stream: int, data: bytes) -> None:
        """Stores bytes of a stream and pokes the agent."""
        if self.trouble:
            self._lost[stream] += len(data)
            return
        before = self.lengths[stream]
        try:
            self._journal.append(stream, data)
        except OSError as error:
            self._lost[stream] += len(data) - (self.lengths[stream] - before)
            self._give_up(error)
        self._poke()

    def poke(self) -> None:
        """Has the agent look at the job's folder."""
        self._poke()

    def close(self) -> None:
        """Makes what was stored durable. A hole is written for what was lost, if there is room."""
        with self._closed:
            try:
                for stream, lost in enumerate(self._lost):
                    if lost:
                        self._journal.skip(stream, lost)
            except OSError:
                pass  # still full: the exit record says how much is missing
            try:
                self._journal.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.trouble = self.trouble or (error.strerror or str(error))
        self.full = error.errno in _FULL

    def _keep_synced(self) -> None:
        while True:
            time.sleep(_SYNC_SECONDS)
            if not self._closed.acquire(blocking=False):
                return
            try:
                self._journal.sync()
            except OSError as error:
                self._give_up(error)
                return
            finally:
                self._closed.release()


def _no_poke() -> None:
    """Tells nobody."""


def _poker(path: str, name: bytes) -> Callable[[], None]:
    import socket  # after the fork: the job starts sooner

    try:
        address, _ = socket_address(path)
    except OSError:  # the agent's folder is gone: nobody to tell
        return _no_poke
    poke = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    poke.setblocking(False)

    def send() -> None:
        try:
            poke.sendto(name, address)
        except OSError:  # no agent, or one that has enough to read already
            return

    return send
