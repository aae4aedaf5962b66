"""Lets one peer after the other have what costs much to tell, and each rest in between.

What is listed is put together in the event loop, and a peer that asks for it without end would hold
everybody else up. So its next answer waits for the last one and for a multiple of what that took:
however often it asks, it gets a fifth of the processor, and whoever asks now and then never waits.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from dstack_mesh.wire.caller import Caller, Member, caller

REST = 4.0
"""Seconds of rest for each second that an answer took."""

LONGEST_REST_SECONDS = 2.0


class _Turn:
    """What one peer has had."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.rested_at = 0.0


class Rests:
    """The turns of all peers, over all that is told so. Use from one event loop.

    Args:
        elapsed: Seconds since some moment; never goes back.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        # As many entries as there are members.
        self._turns: defaultdict[Caller, _Turn] = defaultdict(_Turn)

    @asynccontextmanager
    async def turn(
        self, context: "grpc.aio.ServicerContext[Any, Any]", further: bool = False
    ) -> AsyncGenerator[None]:
        """To be held while an answer to this call is put together. The owner never waits.

        Args:
            further: It goes on from the answer before: the rest between them may be taken later, as
                long as it is no longer than the longest one.
        """
        who = caller(context)
        if not isinstance(who, Member):
            yield
            return
        turn = self._turns[who]
        async with turn.lock:
            lent = LONGEST_REST_SECONDS if further else 0.0
            await asyncio.sleep(max(0.0, turn.rested_at - self._elapsed() - lent))
            began = self._elapsed()
            try:
                yield
            finally:
                ended = self._elapsed()
                rest = min(REST * (ended - began), LONGEST_REST_SECONDS)
                turn.rested_at = max(turn.rested_at, ended) + rest
