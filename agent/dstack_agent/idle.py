"""Lets an agent leave that nobody needs."""

import asyncio
from collections.abc import Callable

LOOK_SECONDS = 1.0


async def leave_when_idle(
    limit_seconds: float,
    busy: Callable[[], bool],
    quiet_seconds: Callable[[], float],
    leave: Callable[[], None],
) -> None:
    """Calls `leave` once nothing was done and nobody called for the time, counted anew each time.

    Args:
        busy: Whether a job runs or a run is driven.
        quiet_seconds: How long nobody has been calling.
    """
    idle_since = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(min(LOOK_SECONDS, limit_seconds))
        now = asyncio.get_running_loop().time()
        if busy():
            idle_since = now
        if min(now - idle_since, quiet_seconds()) >= limit_seconds:
            leave()
            return
