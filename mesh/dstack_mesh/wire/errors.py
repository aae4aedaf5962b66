"""Trouble on the wire: a MeshError raised in a servicer is raised again, the same, in the caller.

A servicer raises; `GuardInterceptor` turns that into a status and trailing metadata; `translated`
turns it back. Anything that is not a MeshError reaches the caller as INTERNAL with the id of a log
line: grpc.aio would otherwise send the text of a bug to the peer.
"""

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Never

import grpc
from google.protobuf.message import DecodeError

from dstack_mesh.faults import (
    ERRORS,
    Broken,
    Busy,
    Fault,
    Forbidden,
    Invalid,
    MeshError,
    Unreachable,
)
from dstack_mesh.trouble import full_disk_in
from dstack_mesh.wire.caller import Caller, certified, judge
from dstack_mesh.wire.protocol import check_protocol, protocol_of
from dstack_mesh.wire.rates import Pacing, kind_of
from dstack_mesh.wire.rights import NEW_WORK, check_right
from dstack_mesh.wire.standings import Call, Standings, of_nobody
from dstack_mesh.wire.wrapping import Behaviour, Wrapping

log = logging.getLogger(__name__)

STATUS: dict[Fault, grpc.StatusCode] = {
    Fault.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Fault.DAMAGED: grpc.StatusCode.DATA_LOSS,
    Fault.MISSING: grpc.StatusCode.NOT_FOUND,
    Fault.UNREACHABLE: grpc.StatusCode.UNAVAILABLE,
    Fault.BROKEN: grpc.StatusCode.INTERNAL,
    Fault.TOO_LATE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Fault.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fault.CONFLICT: grpc.StatusCode.ABORTED,
    Fault.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Fault.REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
}
"""The status of each fault, both ways."""

FAULT_OF_STATUS: dict[grpc.StatusCode, Fault] = {
    grpc.StatusCode.OK: Fault.BROKEN,
    grpc.StatusCode.CANCELLED: Fault.UNREACHABLE,
    grpc.StatusCode.UNKNOWN: Fault.BROKEN,
    grpc.StatusCode.ALREADY_EXISTS: Fault.CONFLICT,
    grpc.StatusCode.OUT_OF_RANGE: Fault.INVALID,
    grpc.StatusCode.UNIMPLEMENTED: Fault.REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: Fault.FORBIDDEN,
} | {status: fault for fault, status in STATUS.items()}
"""The fault of every status that a peer or gRPC itself may send."""

_LONGEST = 1500
"""Bytes of one text in the trailing metadata, which may be 8 KiB in all."""

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

        async def run(request: Any, context: Any) -> Any:
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
                    return await inner(readable, context)
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
    await context.abort(STATUS[error.fault], _short(error.what).decode(), to_metadata(error))


def _only_gone(trouble: BaseException) -> bool:
    """Whether all that happened is that gRPC could not write to the caller's connection."""
    if isinstance(trouble, BaseExceptionGroup):
        return all(_only_gone(one) for one in trouble.exceptions)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    return isinstance(trouble, grpc.aio.InternalError)


def mesh_error_in(trouble: BaseException) -> MeshError | None:
    """The MeshError that this is, or that a TaskGroup wrapped; None if there is none."""
    if isinstance(trouble, MeshError):
        return trouble
    if isinstance(trouble, BaseExceptionGroup):
        found = (mesh_error_in(one) for one in trouble.exceptions)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
        return next((error for error in found if error), None)
    return None


def to_metadata(error: MeshError) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carries an error whole."""
    retry = error.retry_seconds if isinstance(error, Busy) else 0.0
    return (
        *((("retry-ms", str(math.ceil(retry * 1000))),) if retry else ()),
        ("fault", error.fault.value),
        ("code-bin", _short(error.code)),
        ("what-bin", _short(error.what)),
        ("why-bin", _short(error.why)),
        ("hint-bin", _short(error.hint)),
    )


def _short(text: str) -> bytes:
    return text.encode()[:_LONGEST].decode(errors="ignore").encode()


@contextmanager
def translated(peer: str) -> Generator[None]:
    """Within it, a failed call raises the MeshError that the peer raised.

    Args:
        peer: What a person calls the other side, as "ws-2" or "10.0.0.7:7420".
    """
    try:
        yield
    except grpc.aio.AioRpcError as failed:
        raise from_rpc_error(failed, peer) from failed


def from_rpc_error(failed: "grpc.aio.AioRpcError", peer: str) -> MeshError:
    """What a failed call means."""
    sent = {key: value for key, value in failed.trailing_metadata() or ()}
    word = sent.get("fault")
    if isinstance(word, str) and word in {fault.value for fault in Fault}:
        error = ERRORS[Fault(word)](
            _text(sent, "what-bin"),
            _text(sent, "why-bin"),
            _text(sent, "hint-bin"),
            _text(sent, "code-bin"),
        )
        if isinstance(error, Busy):
            error.retry_seconds = _retry_seconds(sent)
        return error
    return _of_status(failed, peer)


def _retry_seconds(sent: dict[str, Any]) -> float:
    said = str(sent.get("retry-ms", ""))
    return int(said) / 1000 if said.isascii() and said.isdigit() and len(said) < 10 else 0.0


def _text(sent: dict[str, Any], key: str) -> str:
    value = sent.get(key, b"")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _of_status(failed: "grpc.aio.AioRpcError", peer: str) -> MeshError:
    status, details = failed.code(), failed.details() or ""
    fault = FAULT_OF_STATUS[status]
    error = ERRORS[fault]
    match status:
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(error, details, peer)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return error(f"{peer} did not answer in time.", details)
        case grpc.StatusCode.CANCELLED:
            return error(f"{peer} broke off the call.", details)
        case grpc.StatusCode.UNIMPLEMENTED:
            return error(
                f"{peer} does not know this call.",
                details,
                "Update the software there.",
                code="too-old",
            )
        case _:
            return error(f"{peer} could not serve the call.", f"{status.name}: {details}")


def _unavailable(error: type[MeshError], details: str, peer: str) -> MeshError:
    what = f"{peer} cannot be reached."
    if "CERTIFICATE_VERIFY_FAILED" in details or "verification check failed" in details:
        return error(
            what,
            "Whoever answers there is not that peer of this mesh, or its certificate is not valid "
            "now.",
            "Compare the clocks of both machines; the peer may belong to another mesh.",
            code="not-that-peer",
        )
    if "Socket closed" in details:
        return error(
            what,
            "It closed the connection.",
            "It refuses certificates that are expired or of another mesh; compare the clocks.",
        )
    return error(what, details.removeprefix("failed to connect to all addresses; last error: "))
