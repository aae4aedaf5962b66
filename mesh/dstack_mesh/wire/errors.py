"""Trouble on the wire: a MeshError raised in a servicer is raised again, the same, in the caller.

A servicer raises; `guard.GuardInterceptor` turns that into a status and trailing metadata;
`translated` turns it back.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import grpc

from dstack_mesh.faults import ERRORS, Busy, Fault, MeshError
from dstack_mesh.own_name import printable

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


def status_text(error: MeshError) -> str:
    """What the status itself says: all that callers see who know no MeshError."""
    return _short(error.what).decode()


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
    return _said(value.decode(errors="replace") if isinstance(value, bytes) else str(value))


def _said(text: str) -> str:
    """What a peer wrote, line by line."""
    return "\n".join(printable(line) for line in text[:_LONGEST].split("\n"))


def _of_status(failed: "grpc.aio.AioRpcError", peer: str) -> MeshError:
    status, details = failed.code(), _said(failed.details() or "")
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
