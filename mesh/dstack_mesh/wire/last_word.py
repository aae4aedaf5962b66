"""The context of a call, so that its caller hears why it ends.

gRPC notes that a call has begun when its first message is on its way out. A task that is cancelled
before parts call and note: then the status would begin the call once more, which core refuses
(GRPC_CALL_ERROR_TOO_MANY_OPERATIONS), and the caller waits for ever. So a message is written to its
end before the call is ended. A caller that reads takes it in milliseconds; the call of one that
does not goes on, and counts as open, until it reads or leaves.
"""

import asyncio
from typing import Any


class LastWord:
    """Stands for the context of a call in everything but writing."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._writing: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Sends a message, after one that was left; who is cancelled here leaves it to go on."""
        await self.over()
        self._writing = asyncio.create_task(self._context.write(message))
        self._writing.add_done_callback(_noticed)
        await asyncio.shield(self._writing)

    async def over(self) -> None:
        """Returns once nothing is on its way."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])


def _noticed(writing: asyncio.Task[None]) -> None:
    """Takes an error that nobody waits for any more; whoever waits has it as well."""
    if not writing.cancelled():
        writing.exception()
