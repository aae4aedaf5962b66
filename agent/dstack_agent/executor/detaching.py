"""How a shim takes a job and leaves its launcher. Standard library only: the shim imports it."""

import contextlib
import fcntl
import os

from dstack_agent.executor import record

_LOCK = ".shim.lock"


class Refusal(Exception):
    """The job may not start: a stable word, and why in a sentence."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


def detach() -> None:
    """Goes on as an orphan in a session of its own; the process that was started ends here."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def take(folder: str, adopt: bool = False) -> None:
    """Makes the job this process's, for its whole life.

    Args:
        folder: The job's folder.
        adopt: Another shim had it and died.

    Raises:
        Refusal: Somebody has it or had it.
    """
    lock = os.open(f"{folder}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refusal("not-started", "Another shim has this job.") from None
    try:
        record.make_room(folder)
    except OSError as error:
        raise Refusal(record.DISK_FULL, f"{folder} cannot be written: {error}.") from error
    if adopt:
        record.reclaim(folder, os.getpid())
    elif not record.claim(folder, os.getpid()):
        raise Refusal("not-started", "This job was started before.")


def hold(names: list[str]) -> list[object]:
    """Holds host-wide locks as long as the result lives, or the process does.

    Raises:
        Refusal: Somebody has one of them.
    """
    if not names:
        return []
    import socket  # only jobs with cards pay for it

    held: list[object] = []
    for name in names:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0dstack-{name}")
        except OSError as error:
            raise Refusal("gpu-busy", f"{name} is in use by another job.") from error
        held.append(lock)
    return held


def say_ok() -> None:
    """Tells the launcher that the job is taken care of."""
    _answer(b"ok\n")


def refuse(refusal: Refusal) -> int:
    """Tells the launcher why not; returns the exit code."""
    _answer(f"{refusal.code} {refusal}\n".encode())
    return 1


def _answer(line: bytes) -> None:
    """Says the one line that the launcher waits for, and lets go of its pipe."""
    with contextlib.suppress(BrokenPipeError):  # the agent was killed; the next one adopts the job
        os.write(1, line)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
