"""A few threads that do one thing to many items, never far ahead of whoever takes the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = 4
"""Requests at a time. One alone waits for the network most of the time; more are only memory."""

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """Threads for one remote. `each` may be used by one thread at a time."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "remote")

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results in the order of the items; at most one for each thread waits to be taken.

        The first failure ends it: what has begun is waited for, nothing more is begun.
        """
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(work, item))
                if len(waiting) > self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
            for left in waiting:
                if not left.cancelled():
                    left.exception()

    def close(self) -> None:
        """Ends the threads after what they have begun; does not wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)
