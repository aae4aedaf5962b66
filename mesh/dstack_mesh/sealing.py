"""Keeps the memory of this process to itself: it holds keys or secrets."""

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def seal_memory() -> None:
    """No core file, and no other process of the user reads it. What the system refuses stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
