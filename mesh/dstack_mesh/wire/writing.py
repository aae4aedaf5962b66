"""What several tasks write to one call, one message after the other."""

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

from dstack_mesh.faults import Unreachable
from dstack_mesh.wire.ending import Ending

if TYPE_CHECKING:
    # Generic only in the stubs.
    from grpc.aio import StreamStreamCall

Q = TypeVar("Q")


class Writing(Generic[Q]):
    """The writing side of a call.

    Args:
        ending: Of the same call.
        over: A sentence for a call that has ended.
        code: Its code.
    """

    def __init__(
        self, call: "StreamStreamCall[Q, Any]", ending: Ending, over: str, code: str
    ) -> None:
        self._call = call
        self._ending = ending
        self._over = over
        self._code = code
        self._turn = asyncio.Lock()

    async def write(self, message: Q) -> None:
        """Sends a message. Raises what the peer ended the call with, if it did."""
        try:
            async with self._turn:
                await self._call.write(message)
        except grpc.aio.AioRpcError as failed:
            raise await self._ending.why(failed) from failed
        except asyncio.InvalidStateError as error:
            raise Unreachable(self._over, code=self._code) from error
