"""Tells waiters that something changed, across threads, without saying what.

Whoever waits remembers the count of strokes, reads the state, and waits for a later stroke: no
change between the reading and the waiting is missed.
"""

import asyncio
from threading import Lock


class Bell:
    """A counter of changes that coroutines of any loop can wait on. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._strokes = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def strokes(self) -> int:
        """How often it has rung."""
        return self._strokes

    def ring(self) -> None:
        """Wakes everybody who waits. Never blocks; may be called from any thread."""
        with self._lock:
            self._strokes += 1
            waiting, self._waiting = self._waiting, set()
            for loop, event in waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    async def later_than(self, seen: int) -> int:
        """Waits until it has rung more often than `seen`, and returns how often."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self._strokes > seen:
                return self._strokes
            self._waiting.add(entry)
        try:
            await entry[1].wait()
        finally:
            with self._lock:
                self._waiting.discard(entry)
        return self._strokes
