"""Processes of a job as a tree below its shim. Standard library only: the shim imports it.

The shim is the reaper of every orphan below it, so a daemon that forked twice and made a session of
its own is still its descendant; nothing gets away but by the shim's death.
"""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH123, PTH208

import ctypes
import os
import signal
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Makes this process the parent of orphans below it. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Has the kernel signal this process when its parent's main thread ends. Raises OSError."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def hide_memory() -> None:
    """Keeps other processes of the user from reading this one's memory, and core files away."""
    _prctl(_PR_SET_DUMPABLE, 0)


def descendants(*roots: int) -> "list[int]":
    """Every process below some, at about this moment, parents before their children."""
    return below(_parents(), *roots)


def below(parents: "list[tuple[int, int]]", *roots: int) -> "list[int]":
    """The same of processes with their parents. Pure."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents:
        children.setdefault(parent, []).append(pid)
    found: dict[int, None] = {}
    heads = list(roots)
    while heads:
        fresh = [pid for pid in children.get(heads.pop(), []) if pid not in found]
        found.update(dict.fromkeys(fresh))
        heads += fresh
    return list(found)


def send(pids: "list[int] | set[int]", number: int) -> None:
    """Sends a signal to each, in this order; those that are gone do not matter."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:  # it became another user's: not ours to end
            continue


def kill_below(root: int) -> None:
    """SIGKILL to everything below; stops all of it first, so that nothing can fork away."""
    seen: set[int] = set()
    while fresh := set(descendants(root)) - seen:
        send(fresh, signal.SIGSTOP)
        seen |= fresh
    send(seen, signal.SIGKILL)


def holders_of(mark: bytes) -> set[int]:
    """Processes whose environment at their start held a line, as far as we may look."""
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    held = file.read()
            except OSError:  # gone meanwhile, or another user's
                continue
            if mark in held.split(b"\0"):
                found.add(int(name))
    return found


def end_holders(mark: bytes, seconds: float) -> set[int]:
    """SIGKILL to holders of a mark until there are none; returns those that do not end in time."""
    until = time.monotonic() + seconds
    while (left := holders_of(mark)) and time.monotonic() < until:
        # A server that writes its title over its environment is found by who started it.
        send(left.union(descendants(*left)), signal.SIGKILL)
        time.sleep(0.02)
    return left


def _parents() -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            pairs.append((int(name), int(fields[1])))
    return pairs


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
