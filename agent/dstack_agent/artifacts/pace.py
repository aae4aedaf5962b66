"""When a running job's artifacts are looked at next. Pure.

The times are a trade: sooner shows fresher versions, later costs the machine less.
"""

from dstack_mesh.frozen import frozen

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


@frozen
class Pace:
    """Seconds between looks.

    Attributes:
        gather: From the first change to the look: what is written together is saved together.
        apart: From one look to the next at least. Every version is told to all who know of the run.
        unheard: Without a change that was heard; there are changes that no watch hears.
    """

    gather: float = 0.5
    apart: float = 3.0
    unheard: float = 30.0

    def next_look(self, last: Look, changed: float | None) -> float:
        """When to look again; `changed`: when the first change since was heard, if one was."""
        rested = max(self.apart, CPU_SHARE * last.cpu_seconds, DISK_SHARE * last.seconds)
        wanted = last.ended + (self.unheard if last.complete else self.apart)
        if changed is not None:
            wanted = min(wanted, changed + self.gather)
        return max(last.ended + rested, wanted)


PACE = Pace()


def affordable(spent_bytes: int, free_bytes: int) -> bool:
    """Whether one more version may be saved.

    Args:
        spent_bytes: What versions took that newer ones replaced.
        free_bytes: What is free for jobs now.
    """
    return free_bytes > 0 and spent_bytes <= max(SPENT_BYTES, free_bytes // SPENT_SHARE)
