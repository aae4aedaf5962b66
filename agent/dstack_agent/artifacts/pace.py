"""When a running job's artifacts are looked at next. Pure.

The times are a trade: sooner shows fresher versions, later costs the machine less.
"""

from dstack_mesh.frozen import frozen

GATHER_SECONDS = 0.5
"""From the first change to the look: what is written together is saved together."""

APART_SECONDS = 3.0
"""From one look to the next at least. Every version is told to all who know of the run."""

UNHEARD_SECONDS = 30.0
"""Without a change that was heard; there are changes that no watch hears."""

CPU_SHARE = 20
"""After a look that took t seconds of processor, CPU_SHARE times t pass: at most 5 % of a core."""

DISK_SHARE = 4
"""The same for seconds by the clock, which the disk may have taken: a fifth of the time."""

SPENT_BYTES = 1 << 30
"""What versions that are shown no more may take, in any case…"""

SPENT_SHARE = 10
"""…and beyond it: the tenth part of what is free for jobs."""


@frozen
class Look:
    """A look that was taken, on the event loop's clock.

    Attributes:
        complete: Whether every folder is watched since.
    """

    ended: float
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    complete: bool = True


def next_look(last: Look, changed: float | None) -> float:
    """When to look again; `changed`: when the first change since was heard, if one was."""
    rested = max(APART_SECONDS, CPU_SHARE * last.cpu_seconds, DISK_SHARE * last.seconds)
    wanted = last.ended + (UNHEARD_SECONDS if last.complete else APART_SECONDS)
    if changed is not None:
        wanted = min(wanted, changed + GATHER_SECONDS)
    return max(last.ended + rested, wanted)


def affordable(spent_bytes: int, free_bytes: int) -> bool:
    """Whether one more version may be saved.

    Args:
        spent_bytes: What versions took that newer ones replaced.
        free_bytes: What is free for jobs now.
    """
    return free_bytes > 0 and spent_bytes <= max(SPENT_BYTES, free_bytes // SPENT_SHARE)
