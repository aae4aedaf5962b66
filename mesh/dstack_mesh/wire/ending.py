"""Why a call ended, in the peer's own words.

grpc.aio loses the status of a call if a message is written at the moment that the peer ends it
(grpc/grpc#36066): the caller sees "Internal error from Core" instead of, say, that the disk is
full or that the agent went away. The true status passes by once, in the callback of the call's end,
and is kept from there.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc

from dstack_mesh.faults import MeshError, Unreachable
from dstack_mesh.wire.errors import from_rpc_error

if TYPE_CHECKING:
    # Generic only in the stubs.
    from grpc.aio import StreamStreamCall, StreamUnaryCall

STATUS_SECONDS = 1.0
"""How long the true status may come after a write that failed."""

T = TypeVar("T")


class Ending:
    """How one call ends. Make it before anything is read or written."""

    def __init__(
        self, call: "StreamStreamCall[Any, Any] | StreamUnaryCall[Any, Any]", peer: str
    ) -> None:
        """`peer` is what errors call the other side."""
        self._peer = peer
        self._status: grpc.aio.AioRpcError | None = None
        self._ended = asyncio.Event()
        call.add_done_callback(self._end)

    async def why(self, failed: "grpc.aio.AioRpcError") -> MeshError:
        """What a step that failed means."""
        if _lost(failed):
            try:
                async with asyncio.timeout(STATUS_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                return Unreachable(f"{self._peer} ended the call.", "", "Try again.")
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


async def answer_of(call: "StreamUnaryCall[Any, T]", peer: str) -> T:
    """What a peer answers to a stream of requests. Raises what it ended the call with."""
    ending = Ending(call, peer)
    try:
        return await call
    except grpc.aio.AioRpcError as failed:
        raise await ending.why(failed) from failed


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
