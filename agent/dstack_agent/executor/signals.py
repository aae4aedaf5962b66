"""Signals as something to read. Standard library only: the shim imports it."""

import os
import signal

ABORT = signal.SIGUSR1
"""Asks a shim to end its job at once; SIGTERM asks it to end the job politely."""


def signal_pipe() -> int:
    """A descriptor from which the numbers of signals are read."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, ABORT, signal.SIGCHLD):
        signal.signal(number, _nothing)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return reader


def signals_in(descriptor: int) -> bytes:
    """The numbers that came, and those alone."""
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""


def _nothing(number: int, frame: object) -> None:
    """The wake-up descriptor carries the signal."""
