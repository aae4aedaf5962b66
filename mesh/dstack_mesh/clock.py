"""Time as an input, so that nothing that decides reads a clock of its own."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two times: one to order and wait by, one to show to people."""

    def elapsed(self) -> float:
        """Seconds since some fixed moment, counting sleep of the machine; never goes back."""
        ...

    def now(self) -> datetime:
        """The time of day in UTC, for display only."""
        ...


class SystemClock:
    """The machine's clocks."""

    def elapsed(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> datetime:
        return datetime.now(UTC)
