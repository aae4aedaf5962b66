"""Stands before every method of a server: who calls, may they, how often, and what they hear.

Anything that is not a MeshError reaches the caller as INTERNAL with the id of a log line: grpc.aio
would otherwise send the text of a bug to the peer.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Never

import grpc
from google.protobuf.message import DecodeError

from dstack_mesh.faults import Broken, Forbidden, Invalid, Unreachable
from dstack_mesh.trouble import full_disk_in
from dstack_mesh.wire.caller import Caller, certified, judge
from dstack_mesh.wire.errors import STATUS, mesh_error_in, status_text, to_metadata
from dstack_mesh.wire.last_word import LastWord
from dstack_mesh.wire.protocol import check_protocol, protocol_of
from dstack_mesh.wire.rates import Pacing, kind_of
from dstack_mesh.wire.rights import NEW_WORK, check_right
from dstack_mesh.wire.standings import Call, Standings, of_nobody
from dstack_mesh.wire.wrapping import Behaviour, Wrapping

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    # Generic only in the stubs.
    _Context = grpc.aio.ServicerContext[Any, Any]


class GuardInterceptor(Wrapping):
    """Stands before every method: who calls, may they, and what reaches them when it goes wrong.

    Args:
        standings: What the roster says of callers; without, their certificates say everything.
        pacing: Counts the calls of each peer; without, everybody may call as often as they like.
    """

    def __init__(self, standings: Standings | None = None, pacing: Pacing | None = None) -> None:
        super().__init__()
        self._standings = standings or of_nobody()
        self._pacing = pacing

    def reading(self, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
        return _reading(deserialize)

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        standings, pacing, kind = self._standings, self._pacing, kind_of(method)
        is_new_work = method in NEW_WORK

        async def run(request: Any, given: Any) -> Any:
            context: Any = LastWord(given)
            call: Call | None = None
            try:
                with standings.during(certified(context)) as call:
                    judge(context, call.who)
                    if pacing is not None:
                        pacing.check(call.who, kind)
                    check_right(method, call.who)
                    if is_new_work:
                        check_protocol(standings.protocol, protocol_of(context))
                    several = hasattr(request, "__aiter__")
                    readable = _Requests(request) if several else _readable(request)
                    try:
                        return await inner(readable, context)
                    finally:
                        await context.over()
            except grpc.aio.AbortError:
                raise
            except asyncio.CancelledError:
                await _abort_cancelled(context, method, call)
                raise  # the caller is gone
            except NotImplementedError:  # what generated code raises for a method nobody wrote
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "This peer does not serve it.")
            except Exception as trouble:  # the one place that must let nothing through
                if isinstance(forbidden := mesh_error_in(trouble), Forbidden):
                    standings.refused(call.who if call else _proved(context), method, forbidden)
                await _abort(context, method, trouble)

        return run


class _Unreadable:
    """Stands for a message that is none, until it is known whether its caller may send any."""


def _reading(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    # gRPC would log a traceback for each such message, however many somebody sends.
    if deserialize is None:
        return None

    def read(encoded: bytes) -> Any:
        try:
            return deserialize(encoded)
        except DecodeError:
            return _Unreadable()

    return read


def _readable(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise Invalid("A message cannot be read.", "It is not of this call.", code="unreadable")
    return request


class _Requests:
    """A stream of requests that ends with Invalid at one that cannot be read."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests  # not begun: whoever never reads it leaves nothing behind

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> Any:
        return _readable(await anext(self._requests))


def _proved(context: "_Context") -> Caller | None:
    """Who calls, by the connection alone; None if that says nothing that counts."""
    try:
        return certified(context)
    except Forbidden:
        return None


async def _abort_cancelled(context: "_Context", method: str, call: Call | None) -> None:
    """Says why a call was cancelled here; returns if it was not: then its caller is gone."""
    task = asyncio.current_task()
    if task is not None and call is not None and call.cut is not None:
        task.uncancel()
        await _abort(context, method, call.cut)
    if task is None or not task.cancelling():
        # Otherwise the caller would wait for its deadline.
        await context.abort(grpc.StatusCode.CANCELLED, "cancelled inside the server")


async def _abort(context: "_Context", method: str, trouble: Exception) -> Never:
    error = mesh_error_in(trouble) or full_disk_in(trouble)
    if error is None and _only_gone(trouble):
        log.debug("%s was written to a caller that has gone", method)
        error = Unreachable("The caller has gone.")
    if error is None:
        log_id = os.urandom(4).hex()
        log.error("%s failed [%s]", method, log_id, exc_info=trouble)
        error = Broken(
            f"{method.rpartition('/')[2]} failed inside the answering peer.",
            f"Its log says more under {log_id}.",
            "Report it with that log.",
        )
    await context.abort(STATUS[error.fault], status_text(error), to_metadata(error))


def _only_gone(trouble: BaseException) -> bool:
    """Whether all that happened is that gRPC could not write to the caller's connection."""
    if isinstance(trouble, BaseExceptionGroup):
        return all(_only_gone(one) for one in trouble.exceptions)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    return isinstance(trouble, grpc.aio.InternalError)
