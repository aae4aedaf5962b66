"""Settings of memory for processes that move bytes."""

import ctypes
import gc
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

KEPT_BYTES = 64 << 20
"""Free memory that stays at the top of the heap.

Effect: the megabyte buffers of a transfer are used again instead of going back to the kernel and
faulting in page by page, a fifth to a half of the time of a transfer. Trade-off: up to this much
stays with a process after its first large transfer; before that it costs nothing.
"""

MAPPED_BYTES = 8 << 20
"""Only larger buffers are mapped one by one and go back to the kernel at once.

Lower: the buffers of packs, up to 4 MiB, would fault in page by page again. Higher: the list of a
large tree, 17 MB for half a million chunks, leaves gaps in the heap, and what is around them stays.
"""

NEW_OBJECTS = 50_000
"""So many new objects before cycles are looked for; 700 by default.

Effect: naming the chunks of a gigabyte makes a hundred thousand objects and no cycle; looking for
some again and again takes a fifteenth of the time. Trade-off: some megabytes of cycles may wait.
"""


def keep_buffers() -> None:
    """Tells the allocator to keep freed buffers of some megabytes. Call it once, early, in a
    `main`.

    Costs 2 ms for the import of ctypes, so a command that moves no bytes need not call it. Does
    nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        # One heap for all threads: a buffer that one thread freed is the next one of another.
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Gives the kernel back what is free now: of an agent that has just started, 12 MB.

    What loading modules used and freed lies between what is in use, where the allocator leaves it.
    Does nothing where the C library is not glibc.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def collect_rarely() -> None:
    """Has cycles looked for less often, and never among what is loaded by now."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 50)
