"""Processes on a card that are none of ours, and where a declared card has its processes from."""

import fcntl
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

Users = Callable[[str], Iterable[int]]
"""The processes that use a card, by its uuid."""

_FLOCK = "hhqqi4x"
"""`struct flock` of Linux: type, whence, start, length, pid."""


def nobody(uuid: str) -> Iterable[int]:
    """A card that nobody uses."""
    return ()


def stranger(pids: Iterable[int], ours: frozenset[int], user_of: Callable[[int], str]) -> str:
    """Who uses a card, for people: "pid 42 (ana)"; empty if only we do, or nobody."""
    strange = sorted(set(pids) - ours)
    if not strange:
        return ""
    user = user_of(strange[0])
    return f"pid {strange[0]} ({user})" if user else f"pid {strange[0]}"


def user_of(pid: int) -> str:
    """Whose process it is; empty if it is gone or in another namespace."""
    import psutil

    try:
        return psutil.Process(pid).username()
    except (psutil.Error, KeyError):
        return ""


def lockers(folder: Path) -> Users:
    """A declared card is used by whoever holds a POSIX lock on the file of its uuid in a folder.

    So a real process can stand for one that computes on a card: the lock goes when it ends, however
    that happens. The file is made by whoever wants to use the card; without one nobody does.
    """

    def pids(uuid: str) -> Iterable[int]:
        try:
            descriptor = os.open(folder / uuid, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return ()
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(
                _FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked)
            )
            return () if kind == fcntl.F_UNLCK else (pid,)
        finally:
            os.close(descriptor)

    return pids
