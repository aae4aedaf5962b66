"""A stream of messages both ways, seen from the caller: deadlines on every step, the peer's own
words."""

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import grpc

from dstack_mesh.faults import TooLate, Unreachable
from dstack_mesh.wire.ending import Ending

if TYPE_CHECKING:
    # Generic only in the stubs.
    from grpc.aio import StreamStreamCall

IDLE_SECONDS = 60.0
"""A stream on which nothing moves for so long is given up."""

Q = TypeVar("Q")
R = TypeVar("R")


class Stream(Generic[Q, R]):
    """One call. Reading and writing may happen at the same time, each by one task."""

    def __init__(
        self, call: "StreamStreamCall[Q, R]", peer: str, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """`peer` is what errors call the other side."""
        self._call = call
        self._peer = peer
        self._idle = idle_seconds
        self._ending = Ending(call, peer)

    async def read(self) -> R:
        """The next message. Raises Unreachable if the peer has ended, TooLate if nothing moves."""
        try:
            async with asyncio.timeout(self._idle):
                message = await self._call.read()
        except TimeoutError as error:
            raise TooLate(f"{self._peer} sent nothing for {self._idle:.0f} s.") from error
        except grpc.aio.AioRpcError as failed:
            raise await self._ending.why(failed) from failed
        if message is grpc.aio.EOF:
            raise Unreachable(f"{self._peer} broke off the transfer.", "", "Try again.")
        return cast("R", message)

    async def write(self, message: Q) -> None:
        """Sends a message. Raises what the peer ended the stream with, if it did."""
        try:
            async with asyncio.timeout(self._idle):
                await self._call.write(message)
        except TimeoutError as error:
            raise TooLate(f"{self._peer} took nothing for {self._idle:.0f} s.") from error
        except grpc.aio.AioRpcError as failed:
            raise await self._ending.why(failed) from failed
        except asyncio.InvalidStateError:
            # The call is over; reading says why.
            while True:
                await self.read()

    async def done_writing(self) -> None:
        """Says that nothing more will be sent."""
        try:
            await self._call.done_writing()
        except grpc.aio.AioRpcError as failed:
            raise await self._ending.why(failed) from failed

    def close(self) -> None:
        """Ends the call, whatever its state."""
        self._call.cancel()
