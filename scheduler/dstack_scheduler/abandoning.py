"""Work that somebody may give up from outside, which is not the same as being cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Generic, TypeVar

T = TypeVar("T")


class Abandonable(Generic[T]):
    """Does one piece of work at a time until it is given up. `tasks` outlives it."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._working: asyncio.Task[T] | None = None
        self._over = False

    def stop(self) -> None:
        """Gives up what goes on, and whatever comes later."""
        if self._over:  # what is given up may be putting things in order
            return
        self._over = True
        if self._working is not None:
            self._working.cancel()

    async def result(self, work: Coroutine[None, None, T]) -> T | None:
        """What comes of the work; None if it was given up."""
        if self._over:
            work.close()
            return None
        self._working = self._tasks.create_task(work)
        try:
            return await self._working
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return None
        finally:
            self._working = None
