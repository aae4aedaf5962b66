"""Blocking work in a thread, of which whoever asked for it leaves nothing under way."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def _nothing() -> None:
    """The work cannot be asked to stop."""


async def to_the_end(work: Callable[[], T], stop: Callable[[], None] = _nothing) -> T:
    """What work returns. Cancelled, it waits for the end: what is removed then, nobody writes.

    Args:
        stop: Asks the work to end sooner; called when this is cancelled.
    """
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait((doing,))
        if not doing.cancelled():
            doing.exception()  # nobody is left to hear of it
        raise
