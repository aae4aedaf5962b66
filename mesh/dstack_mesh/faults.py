"""The one list of ways things go wrong, shared by every floor and carried across the wire.

A `MeshError` says what happened, why with the value seen, and how to fix it. Its `Fault` decides
the status on the wire, the exit code of a command and what a caller should do; the tables are total
and tested to be.
"""

from enum import Enum


class Fault(Enum):
    """What kind of trouble it is. The value is the stable word used in JSON and on the wire."""

    INVALID = "invalid"
    DAMAGED = "damaged"
    MISSING = "missing"
    UNREACHABLE = "unreachable"
    BROKEN = "broken"
    TOO_LATE = "too-late"
    BUSY = "busy"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    REFUSED = "refused"


EXIT_CODES: dict[Fault, int] = {
    Fault.INVALID: 64,
    Fault.DAMAGED: 65,
    Fault.MISSING: 66,
    Fault.UNREACHABLE: 69,
    Fault.BROKEN: 70,
    Fault.TOO_LATE: 74,
    Fault.BUSY: 75,
    Fault.CONFLICT: 76,
    Fault.FORBIDDEN: 77,
    Fault.REFUSED: 78,
}
"""Exit codes of commands other than run, attach, wait and logs (sysexits.h where it has a word)."""


class MeshError(Exception):
    """Something went wrong that a person or a peer can understand.

    Args:
        what: One sentence: what happened.
        why: One sentence with the value seen; may be empty.
        hint: What would fix it, ready to paste where possible; may be empty.
        code: Stable word for scripts; the fault's own word by default.
    """

    fault = Fault.BROKEN

    def __init__(self, what: str, why: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.code = code or self.fault.value

    def __str__(self) -> str:
        return f"{self.what} {self.why}".strip()


class Invalid(MeshError):
    """The caller asked for something that cannot be."""

    fault = Fault.INVALID


class Damaged(MeshError):
    """Bytes are not what they are called."""

    fault = Fault.DAMAGED


class Missing(MeshError):
    """There is no such thing here."""

    fault = Fault.MISSING


class Unreachable(MeshError):
    """A peer does not answer."""

    fault = Fault.UNREACHABLE


class Broken(MeshError):
    """A bug or a broken invariant on our side."""

    fault = Fault.BROKEN


class TooLate(MeshError):
    """A deadline passed."""

    fault = Fault.TOO_LATE


class Busy(MeshError):
    """It is in use now; later it may not be.

    `retry_seconds` is after how long, where that is known; else 0.
    """

    fault = Fault.BUSY

    def __init__(
        self,
        what: str,
        why: str = "",
        hint: str = "",
        code: str = "",
        retry_seconds: float = 0.0,
    ) -> None:
        super().__init__(what, why, hint, code)
        self.retry_seconds = retry_seconds


class Conflict(MeshError):
    """Somebody else was first."""

    fault = Fault.CONFLICT


class Forbidden(MeshError):
    """The caller may not."""

    fault = Fault.FORBIDDEN


class Refused(MeshError):
    """The state of things does not allow it."""

    fault = Fault.REFUSED


ERRORS: dict[Fault, type[MeshError]] = {
    error.fault: error
    for error in (
        Invalid,
        Damaged,
        Missing,
        Unreachable,
        Broken,
        TooLate,
        Busy,
        Conflict,
        Forbidden,
        Refused,
    )
}
