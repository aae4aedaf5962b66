"""Waits for the thing, not for the time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], within: float, every: float = 0.02) -> T:
    """What `look` returns once it is truthy.

    Raises:
        AssertionError: It was not within the time; the last value is in the message.
    """
    deadline = time.monotonic() + within
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s; last seen: {seen!r}")
        time.sleep(every)
    return seen


async def eventually_async(
    look: Callable[[], Awaitable[T]], within: float, every: float = 0.02
) -> T:
    """The same for something that is awaited."""
    deadline = time.monotonic() + within
    while not (seen := await look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s; last seen: {seen!r}")
        await asyncio.sleep(every)
    return seen
