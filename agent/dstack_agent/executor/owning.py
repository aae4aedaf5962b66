"""The life of a process job below its shim. Standard library only: the shim imports it.

The job ends when its main process ends: what it left running is killed, the pipes are read empty,
and the exit is recorded. A polite stop is SIGTERM to the whole tree; what then still runs after the
grace is killed, and a main process that ends earlier leaves the others the rest of their grace.
"""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH103

import contextlib
import errno
import fcntl
import os
import select
import signal
import sys
import time

from dstack_agent.executor import ending, record, tree, vault
from dstack_agent.executor.becoming import NOT_FOUND, NOT_STARTED, settle, wall_in
from dstack_agent.executor.detaching import Refusal, detach, hold, refuse, say_ok, take
from dstack_agent.executor.guests import Guests
from dstack_agent.executor.output import Output
from dstack_agent.executor.signals import ABORT, signal_pipe, signals_in
from dstack_agent.executor.task import Task

_READ_BYTES = 64 * 1024
_PIPE_BYTES = 1024 * 1024
_KILL_SECONDS = 10.0
_DRAIN_SECONDS = 5.0
_BURST_SECONDS = 0.001
_LONGEST_WAIT = 86_400.0  # poll takes no more than 24 days


def own(folder: str, told: bytes) -> int:
    """Takes the job whose task was told, and sees it to its end."""
    task = Task.decode(told)
    detach()
    tree.hide_memory()
    tree.adopt_orphans()
    signals = signal_pipe()
    try:
        held = hold(task.locks)
        take(folder)
    except Refusal as refusal:
        return refuse(refusal)
    output = Output(folder, task.wake, task.log_bytes, task.hidden)
    _lay_secrets(folder, task)
    before = ending.oom_kills()
    job = Job(task, output, signals, Guests(folder, task))
    say_ok()
    output.start()
    try:
        job.supervise()
    finally:  # whatever becomes of the records, no secret stays in memory
        if task.secrets:
            vault.clear(folder)
    output.close()
    record.write_exit(folder, job.summary(ending.oom_kills() > before))
    output.poke()
    del held
    return 0


class Job:
    """A job that runs. Making one starts it."""

    def __init__(self, task: Task, output: Output, signals: int, guests: Guests) -> None:
        self._task = task
        self._output = output
        self._signals = signals
        self._guests = guests
        self._status: int | None = None
        self._ended_by = ""
        self._childless = False
        self._kill_at: float | None = None
        self._limit_at = time.monotonic() + task.limit_seconds if task.limit_seconds else None
        self._pipes: dict[int, int] = {}
        self._poll = select.poll()
        self._poll.register(signals, select.POLLIN)
        self._pid, self._started = self._start()

    def supervise(self) -> None:
        """Copies what the job writes until it ended, and leaves nothing of it running."""
        self._guests.open()
        if self._guests.hatch >= 0:
            self._poll.register(self._guests.hatch, select.POLLIN)
        while not self._is_over():
            self._turn(self._seconds_left())
        self._guests.shut()
        self._kill_tree()
        self._drain()

    def summary(self, out_of_memory: bool) -> dict[str, object]:
        """The fields of the exit record."""
        status = 0 if self._status is None else self._status
        code = None if self._status is None else ending.exit_code(status)
        reason, cause = ending.explain(code or 0, self._ended_by, out_of_memory)
        stdout, stderr = self._output.lengths
        return {
            "exit_code": code,
            "reason": reason,
            "cause": ending.with_cut(cause, self._output.lost_bytes, self._output.cut),
            "stdout_bytes": stdout,
            "stderr_bytes": stderr,
            "lost_bytes": self._output.lost_bytes,
            "ended_at_ns": time.time_ns(),
        }

    def _start(self) -> tuple[int, int]:
        """The job's process, and a descriptor that ends once its walls are up and it runs."""
        pipes = (_large_pipe(), _large_pipe())
        started, starts = os.pipe2(os.O_CLOEXEC)
        shim = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(self._task, shim, pipes[0][1], pipes[1][1])
        os.close(starts)
        for stream, (reader, writer) in enumerate(pipes):
            os.close(writer)
            os.set_blocking(reader, False)
            self._pipes[reader] = stream
            self._poll.register(reader, select.POLLIN)
        return pid, started

    def _is_over(self) -> bool:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            return True
        return self._status is not None and (self._kill_at is None or self._childless)

    def _seconds_left(self) -> float | None:
        ends = [end for end in (self._kill_at, self._limit_at) if end is not None]
        return min(max(min(ends) - time.monotonic(), 0), _LONGEST_WAIT) if ends else None

    def _turn(self, seconds: float | None) -> None:
        """Waits for something to happen, and deals with it."""
        events = self._poll.poll(None if seconds is None else seconds * 1000 + 1)
        copied = 0
        for descriptor, _ in events:
            if descriptor == self._signals:
                self._heed(signals_in(self._signals))
            elif descriptor == self._guests.hatch:
                self._guests.let_in(self._pid, self._started)
            else:
                copied += self._copy(descriptor)
        if self._output.trouble:
            self._end(record.DISK_FULL)
        if self._limit_at is not None and time.monotonic() >= self._limit_at:
            self._end(record.TIME_LIMIT)
        if 0 < copied < _READ_BYTES:
            time.sleep(_BURST_SECONDS)  # many small writes become one frame and one wake-up

    def _heed(self, numbers: bytes) -> None:
        self._reap()
        if ABORT in numbers:
            self._kill_at = time.monotonic()
            self._ended_by = record.ABORTED if self._status is None else self._ended_by
        elif signal.SIGTERM in numbers:
            self._end(record.STOPPED)

    def _end(self, reason: str) -> None:
        """Asks the whole tree to end, once; the first reason stays."""
        self._limit_at = None
        if self._kill_at is None and self._status is None:
            self._ended_by = reason
            self._kill_at = time.monotonic() + self._task.grace_seconds
            # A shell hears of it before what it waits for is gone, or it would end for that reason.
            below = tree.descendants(os.getpid())
            tree.send(below, signal.SIGTERM)
            tree.send(below, signal.SIGCONT)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._guests.left(ended[0])
                if ended[0] == self._pid:
                    self._status = ended[1]
                    self._guests.end()
            return
        self._childless = True

    def _copy(self, descriptor: int) -> int:
        """Bytes that one read gave; forgets the pipe at its end."""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            self._output.write(self._pipes[descriptor], data)
        else:
            self._forget(descriptor)
        return len(data)

    def _forget(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._pipes[descriptor]
        os.close(descriptor)

    def _kill_tree(self) -> None:
        until = time.monotonic() + _KILL_SECONDS
        self._reap()
        while not self._childless and time.monotonic() < until:
            tree.kill_below(os.getpid())
            select.select([self._signals], [], [], 0.05)
            self._reap()

    def _drain(self) -> None:
        """Reads what is in the pipes. Somebody outside the tree may hold one open for ever."""
        until = time.monotonic() + _DRAIN_SECONDS
        while self._pipes and time.monotonic() < until:
            for descriptor in list(self._pipes):
                while descriptor in self._pipes and self._copy(descriptor):
                    pass
            select.select(list(self._pipes), [], [], 0.05)


def _lay_secrets(folder: str, task: Task) -> None:
    """Writes the files of a job's secrets; without them it has its variables still."""
    if not task.secrets:
        return
    try:
        vault.fill(folder, task.secrets)
    except OSError as error:
        print(f"the secrets are in variables only: {error}", file=sys.stderr)


def _large_pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a user may have had enough of large ones
        fcntl.fcntl(pipe[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return pipe


def _become(task: Task, shim: int, stdout: int, stderr: int) -> None:
    """Turns the forked process into the job; never returns."""
    try:
        settle(shim, (os.open(os.devnull, os.O_RDONLY), stdout, stderr))
        wall_in(task)
        os.makedirs(task.cwd, exist_ok=True)  # an installer may have led it elsewhere by a link
        os.chdir(task.cwd)
        os.execve(task.argv[0], task.argv, task.env)
    except OSError as error:
        os.write(2, f"cannot start {task.argv[0]}: {error}\n".encode())
        os._exit(NOT_FOUND if error.errno == errno.ENOENT else NOT_STARTED)
