"""Where a shim puts what a job wrote. Standard library only: the shim imports it."""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH119

import _thread
import contextlib
import errno
import os
import time
from collections.abc import Callable

from dstack_agent.executor.record import JOURNAL, note_cut, noted_cut
from dstack_agent.logs.address import socket_address
from dstack_agent.logs.writer import JournalWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack_agent.executor.redaction import Redactor

_SYNC_SECONDS = 0.5
_TELL_SECONDS = 10.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Output:
    """The journal of a job, the poke that tells the agent that it grew, and its fdatasync.

    A disk that is full or broken never blocks the job's pipes: bytes are counted as lost from then
    on and `trouble` says why. So are bytes beyond the limit, which readers see as holes while the
    job goes on; that is no trouble.

    Args:
        folder: The job's folder.
        wake: The agent's datagram socket; empty for none.
        limit_bytes: What the journal may take on the disk; 0 for no limit.
        hidden: Values of secrets, of which stars are stored.
    """

    def __init__(
        self, folder: str, wake: str, limit_bytes: int = 0, hidden: "list[str] | None" = None
    ) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._tell_at = 0.0
        self._journal = JournalWriter(f"{folder}/{JOURNAL}")
        self._name = os.path.basename(folder).encode()
        self._wake = wake
        self._poke = _no_poke
        self._redactors = _redactors(hidden) if hidden else None
        self._lost = [0, 0]
        self._lost_bytes = 0
        self._closed = _thread.allocate_lock()
        self.trouble = ""
        self.full = False
        self.cut = bool(noted_cut(folder))

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
        return self._lost_bytes

    def write(self, stream: int, data: bytes) -> None:
        """Stores bytes of a stream and pokes the agent."""
        if self._redactors is not None:
            data = self._redactors[stream].take(data)
        if data:
            self._store(stream, data)
        self._poke()

    def forget_held(self) -> None:
        """Drops what was held back to look for secrets: it will be read again from its source."""
        for each in self._redactors or ():
            each.forget()

    def _store(self, stream: int, data: bytes) -> None:
        if self.trouble:
            self._lose(stream, len(data))
            return
        kept = data if not self._limit else data[: self._room()]
        before = self.lengths[stream]
        try:
            if kept:
                self._journal.append(stream, kept)
        except OSError as error:
            self._lose(stream, len(data) - (self.lengths[stream] - before))
            self._give_up(error)
        else:
            self._lose(stream, len(data) - len(kept))
            if len(kept) < len(data):
                self._cut()

    def poke(self) -> None:
        """Has the agent look at the job's folder."""
        self._poke()

    def close(self) -> None:
        """Makes what was stored durable. A hole is written for what was lost, if there is room."""
        for stream, each in enumerate(self._redactors or ()):
            if rest := each.rest():
                self._store(stream, rest)
        with self._closed:
            with contextlib.suppress(OSError):  # still full: the exit record says what is missing
                self._tell_lost()
            try:
                self._journal.close()
            except OSError as error:
                self._give_up(error)

    def _room(self) -> int:
        """Bytes that may be stored still. Once it was none it stays none: no second beginning."""
        return 0 if self.cut else max(self._limit - self._journal.size_bytes, 0)

    def _lose(self, stream: int, count: int) -> None:
        self._lost[stream] += count
        self._lost_bytes += count

    def _cut(self) -> None:
        """Has readers see what is missing, now and then."""
        now = time.monotonic()
        try:
            if not self.cut:
                self.cut = True
                note_cut(self._folder, self._limit)
            if now >= self._tell_at:
                self._tell_at = now + _TELL_SECONDS
                self._tell_lost()
        except OSError as error:
            self._give_up(error)

    def _tell_lost(self) -> None:
        for stream, lost in enumerate(self._lost):
            if lost:
                self._journal.skip(stream, lost)
                self._lost[stream] = 0

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


def _redactors(hidden: "list[str]") -> "tuple[Redactor, Redactor]":
    from dstack_agent.executor.redaction import Redactor, forms_of  # only jobs with secrets pay

    forms: set[bytes] = set()
    for value in hidden:
        forms |= forms_of(value)
    return Redactor(forms), Redactor(forms)


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
