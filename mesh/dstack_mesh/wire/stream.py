"""A stream of messages both ways, seen from the caller: deadlines on every step, the peer's own
words.

grpc.aio loses the status of a call if a message is written at the moment that the peer ends it
(grpc/grpc#36066): the caller sees "Internal error from Core" instead of, say, that the disk is
full. The true status passes by once, in the callback of the call's end, and is kept from there.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import grpc
from google.protobuf.message import Message

from dstack_mesh.faults import MeshError, TooLate, Unreachable
from dstack_mesh.wire.errors import from_rpc_error

if TYPE_CHECKING:
    # Generic only in the stubs.
    from grpc.aio import StreamStreamCall

IDLE_SECONDS = 60.0
"""A stream on which nothing moves for so long is given up."""

STATUS_SECONDS = 1.0
"""How long the true status may come after a write that failed."""

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
T = TypeVar("T")


class Stream(Generic[Q, R]):
    """One call. Reading and writing may happen at the same time, each by one task."""

    def __init__(self, call: "StreamStreamCall[Q, R]", peer: str) -> None:
        """`peer` is what errors call the other side."""
        self._call = call
        self._peer = peer
        self._status: grpc.aio.AioRpcError | None = None
        self._ended = asyncio.Event()
        call.add_done_callback(self._end)

    async def read(self) -> R:
        """The next message. Raises Unreachable if the peer has ended, TooLate if nothing moves."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await self._call.read()
        except TimeoutError as error:
            raise TooLate(f"{self._peer} sent nothing for {IDLE_SECONDS:.0f} s.") from error
        except grpc.aio.AioRpcError as failed:
            raise await self._why(failed) from failed
        if message is grpc.aio.EOF:
            raise Unreachable(f"{self._peer} broke off the transfer.", "", "Try again.")
        return cast("R", message)

    async def write(self, message: Q) -> None:
        """Sends a message. Raises what the peer ended the stream with, if it did."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await self._call.write(message)
        except TimeoutError as error:
            raise TooLate(f"{self._peer} took nothing for {IDLE_SECONDS:.0f} s.") from error
        except grpc.aio.AioRpcError as failed:
            raise await self._why(failed) from failed
        except asyncio.InvalidStateError:
            # The call is over; reading says why.
            while True:
                await self.read()

    async def done_writing(self) -> None:
        """Says that nothing more will be sent."""
        try:
            await self._call.done_writing()
        except grpc.aio.AioRpcError as failed:
            raise await self._why(failed) from failed

    def close(self) -> None:
        """Ends the call, whatever its state."""
        self._call.cancel()

    async def _why(self, failed: "grpc.aio.AioRpcError") -> MeshError:
        if _lost(failed):
            try:
                async with asyncio.timeout(STATUS_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                return Unreachable(f"{self._peer} ended the transfer.", "", "Try again.")
        return from_rpc_error(self._status or failed, self._peer)

    def _end(self, call: Any) -> None:
        code = _now(call.code())
        if code is None or code is grpc.StatusCode.OK:
            return
        metadata = _now(call.trailing_metadata()) or grpc.aio.Metadata()
        details = _now(call.details()) or ""
        status = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)
        if not _lost(status):
            self._status = status
            self._ended.set()


def _lost(failed: "grpc.aio.AioRpcError") -> bool:
    """Whether this is only what a failed write left of the status."""
    words = failed.details() or ""
    return failed.code() is grpc.StatusCode.INTERNAL and words.startswith(
        "Internal error from Core"
    )


def _now(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """The result of a coroutine that need not wait; None if it would."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    coroutine.close()
    return None
