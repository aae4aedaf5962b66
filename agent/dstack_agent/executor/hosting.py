"""The process above a command beside a job. Standard library only: a shim forks it, which then
imports this.
"""

# Loading pathlib would double the time that a command takes to start.
# ruff: noqa: PTH208

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import sys
import termios
import time

from dstack_agent.executor import asking, ending, masks, tree
from dstack_agent.executor.asking import Asked
from dstack_agent.executor.becoming import NOT_FOUND, NOT_STARTED, settle, wall_in
from dstack_agent.executor.signals import signal_pipe, signals_in
from dstack_agent.executor.task import Task

_ASK_SECONDS = 5.0
_START_SECONDS = 20.0
_HANG_UP_SECONDS = 1.0
_KILL_SECONDS = 10.0


class Host:
    """The process above one command."""

    def __init__(self, task: Task, key: bytes, connection: socket.socket) -> None:
        self._task = task
        self._key = key
        self._connection = connection

    @property
    def descriptor(self) -> int:
        """Of whoever asked."""
        return self._connection.fileno()

    def serve(self, signals: int, job: int, started: int) -> None:
        """Runs what is asked for, and says how it ended."""
        asked, streams = self._heard()
        try:
            if asked is not None and len(streams) == 3 and asked.argv[0]:
                self._run(asked, (streams[0], streams[1], streams[2]), signals, job, started)
        except OSError as error:
            self._say(asking.ended(NOT_STARTED, f"The job cannot be entered: {error.strerror}."))

    def _heard(self) -> "tuple[Asked | None, list[int]]":
        self._connection.settimeout(_ASK_SECONDS)
        try:
            packet, streams, flags, _ = socket.recv_fds(self._connection, asking.MOST_BYTES + 1, 3)
        except OSError:
            return None, []
        cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        return None if cut else Asked.decode(packet, self._key), streams

    def _run(
        self, asked: Asked, streams: "tuple[int, int, int]", signals: int, job: int, started: int
    ) -> None:
        select.select([started], [], [], _START_SECONDS)
        spaces = masks.spaces_of(job) if self._task.masks else None
        said, says = os.pipe2(os.O_CLOEXEC)
        host = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(Command(self._task, asked, streams, spaces), host, says)
        for descriptor in (*streams, *(spaces or ()), says):
            os.close(descriptor)
        why = os.read(said, 4096).decode("utf-8", "surrogateescape")
        if not why:
            self._say(asking.RUNS)
        status = self._end_of(pid, signals)
        _end_below()
        if status is not None:
            self._say(asking.ended(ending.exit_code(status), why))

    def _end_of(self, pid: int, signals: int) -> "int | None":
        """How the command ended; None if whoever asked for it went away."""
        self._connection.setblocking(False)
        until: float | None = None
        while True:
            if (status := _reaped(pid)) is not None:
                return status if until is None else None
            if until is not None and time.monotonic() >= until:
                return None
            heard = [signals] if until is not None else [signals, self._connection]
            left = None if until is None else max(until - time.monotonic(), 0)
            ready, _, _ = select.select(heard, [], [], left)
            if signals in ready:
                signals_in(signals)
            if self._connection in ready and not self._heed():
                until = time.monotonic() + _HANG_UP_SECONDS
                below = tree.descendants(os.getpid())
                tree.send(below, signal.SIGHUP)
                tree.send(below, signal.SIGCONT)

    def _heed(self) -> bool:
        """Obeys whoever asked; whether they are still there."""
        try:
            packet = self._connection.recv(len(asking.INTERRUPT))
        except BlockingIOError:
            return True
        except OSError:
            return False
        if packet == asking.INTERRUPT:
            tree.send(tree.descendants(os.getpid()), signal.SIGINT)
        return bool(packet)

    def _say(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # whoever asked is gone
            self._connection.send(packet)


def be_host(host: Host, shim: int, job: int, started: int) -> None:
    """What a process that the shim forked does; never returns."""
    try:
        signal.set_wakeup_fd(-1)  # what it is told is not said to the shim
        tree.die_with(shim)
        tree.adopt_orphans()
        _let_go(host.descriptor, started)
        host.serve(signal_pipe(), job, started)
    except Exception as error:  # whatever it is, this must not go on as the shim that it was
        print(f"a command beside the job: {error!r}", file=sys.stderr)
    finally:
        os._exit(0)


def _let_go(*kept: int) -> None:
    """Closes what belongs to the shim: its locks would outlive it, and its journal."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):  # of the listing itself
                os.close(int(name))


class Command:
    """A command that is to start: what was asked for, with what it needs."""

    def __init__(
        self,
        task: Task,
        asked: Asked,
        streams: "tuple[int, int, int]",
        spaces: "list[int] | None",
    ) -> None:
        self.task = task
        self.asked = asked
        self.streams = streams
        self.spaces = spaces

    def start(self, host: int) -> None:
        """Turns this process into it. Raises OSError."""
        settle(host, self.streams)
        if self.asked.terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        wall_in(self.task, self.spaces)
        os.chdir(self.task.cwd)
        env = self.task.env
        if self.asked.terminal:
            env = {**env, "TERM": self.asked.terminal}
        os.execvpe(self.asked.argv[0], self.asked.argv, env)


def _become(command: Command, host: int, says: int) -> None:
    """Turns the forked process into the command; never returns."""
    code = NOT_STARTED
    try:
        command.start(host)
    except OSError as error:
        found = error.errno not in (errno.ENOENT, errno.ENOTDIR)
        code = NOT_STARTED if found else NOT_FOUND
        why = f"{command.asked.argv[0]} cannot be started: {error.strerror}"
        about = error.filename if isinstance(error.filename, str) else ""
        os.write(says, (f"{why} ({about})." if about else f"{why}.").encode()[:4096])
    finally:
        os._exit(code)


def _reaped(pid: int) -> "int | None":
    """The wait status of a child that ended; orphans of others are let go."""
    status: int | None = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = ended[1] if ended[0] == pid else status
    return status


def _end_below() -> None:
    """Leaves nothing running that the command started."""
    until = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < until:
        tree.kill_below(os.getpid())
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)
