"""Lets disk and network work at the same time: blocking work in one thread, a few steps ahead."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from dstack_mesh.wire.errors import mesh_error_in

AHEAD = 2
"""Items that are made before they are asked for. Enough to cover a slow read; more is only
memory."""

P = ParamSpec("P")
T = TypeVar("T")


class Hand:
    """A thread that does one thing after the other, in the order asked."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "bytes")

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of blocking work. Work that has begun ends, even if nobody waits any more."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))

    async def end(self, work: Callable[[], None]) -> None:
        """Does a last thing, even if nobody waits any more, and ends the thread after it."""
        last = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._pool.shutdown(wait=False)
        await asyncio.shield(last)

    def close(self) -> None:
        """Ends the thread after the work that has begun; does not wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def read_ahead(
    items: Iterator[T], ahead: int = AHEAD, ready: Callable[[bool], None] | None = None
) -> AsyncGenerator[T]:
    """The items of a blocking iterator, made in a thread while earlier ones are used.

    Close it (`aclosing`): that ends the thread. `ready` is told, whenever one but the first is
    wanted, whether it lies ready.
    """
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1, "bytes")
    waiting: deque[asyncio.Future[tuple[T] | None]] = deque()

    def step() -> tuple[T] | None:
        for item in items:
            return (item,)
        return None

    try:
        while True:
            if ready is not None and waiting:
                ready(waiting[0].done())
            while len(waiting) < ahead:
                waiting.append(loop.run_in_executor(pool, step))
            made = await waiting.popleft()
            if made is None:
                return
            yield made[0]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        # What was made ahead of a failure may have failed as well; nobody asks for it any more.
        await asyncio.gather(*waiting, return_exceptions=True)


@contextmanager
def one_error() -> Generator[None]:
    """Within it, a task group that fails raises the MeshError that a task failed with."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = mesh_error_in(group)
        if error is None:
            raise
        raise error from group
