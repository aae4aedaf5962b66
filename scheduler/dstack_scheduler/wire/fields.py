"""Reads single fields of messages: a valid value comes back, or `Invalid` names the wrong field.

Limits are there so that a peer cannot fill memory or disk with a field; they are far above what
people write.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Address, Digest, HoldId, PeerId, RunId, RunName
from dstack_mesh.signing import LONGEST_KEY_BYTES, LONGEST_SIGNATURE_BYTES, Signed

T = TypeVar("T")

DIGEST_BYTES = 32
LINE = 255
PATH = 4096
TEXT = 64 * 1024
ITEMS = 10_000
JOBS = 10_000
SIGNED_BYTES = 1 << 20

_RUN_ID = re.compile(r"[0-9A-Za-z]{26}")
_PEER_ID = re.compile(r"[a-z2-7]{32}")
_RUN_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_HOLD_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 253_402_300_799
_NANOS = 10**9
LARGEST = 2**63 - 1


def refuse(field: str, value: object, rule: str) -> Invalid:
    """The error that says what is wrong with a field."""
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return Invalid(f"{field} is not valid.", f"It is {shown}; {rule}.", code="invalid-field")


def run_id(value: str) -> RunId:
    """A run's id."""
    if not _RUN_ID.fullmatch(value):
        raise refuse("The run's id", value, "it has 26 letters and digits")
    return RunId(value)


def run_name(value: str) -> RunName:
    """A run's name."""
    if not _RUN_NAME.fullmatch(value):
        raise refuse("The run's name", value, "it has 1 to 100 letters, digits, '.', '_' or '-'")
    return RunName(value)


def peer_id(value: str) -> PeerId:
    """A peer's id."""
    if not _PEER_ID.fullmatch(value):
        raise refuse("The peer's id", value, "it has 32 lower-case base32 characters")
    return PeerId(value)


def hold_id(value: str) -> HoldId:
    """A hold's id."""
    if not _HOLD_ID.fullmatch(value):
        raise refuse("The hold's id", value, "it has 1 to 64 letters, digits, '_' or '-'")
    return HoldId(value)


def digest(value: bytes, field: str = "The digest") -> Digest:
    """A BLAKE3 digest."""
    if len(value) != DIGEST_BYTES:
        raise refuse(field, value, f"a digest has {DIGEST_BYTES} bytes")
    return Digest(value)


def signed(body: bytes, key: bytes, signature: bytes) -> Signed:
    """Something signed, not checked."""
    if len(body) > SIGNED_BYTES:
        raise refuse("Something signed", len(body), f"it has at most {SIGNED_BYTES} bytes")
    if len(key) > LONGEST_KEY_BYTES or len(signature) > LONGEST_SIGNATURE_BYTES:
        raise refuse("A signature", len(signature), "it is that of a P-256 key")
    return Signed(body, key, signature)


def addresses(values: Iterable[str]) -> tuple[Address, ...]:
    """Where a peer may be dialled."""
    return tuple(Address(line(value, "The address")) for value in items(values, "Addresses"))


def line(value: str, field: str, limit: int = LINE) -> str:
    """Text on one line, without control characters."""
    if len(value) > limit:
        raise refuse(field, value, f"it has at most {limit} characters")
    if _CONTROL.search(value):
        raise refuse(field, value, "it has no control characters")
    return value


def text(value: str, field: str, limit: int = TEXT) -> str:
    """Text of several lines; NUL cannot be handed to a process."""
    if len(value) > limit:
        raise refuse(field, value, f"it has at most {limit} characters")
    if "\0" in value:
        raise refuse(field, value, "it has no NUL")
    return value


def path(value: str, field: str) -> str:
    """A path that is not empty."""
    if not value:
        raise refuse(field, value, "it is not empty")
    return line(value, field, PATH)


def start(value: str, field: str) -> str:
    """A folder: absolute, or one of the code; "" is the code's root."""
    line(value, field, PATH)
    if ".." in value.split("/") or value.startswith("//"):
        raise refuse(field, value, "it is absolute or stays inside the code")
    return value


def items(values: Iterable[T], field: str, limit: int = ITEMS) -> tuple[T, ...]:
    """As many as there are, up to a limit."""
    found = tuple(values)
    if len(found) > limit:
        raise refuse(field, len(found), f"there are at most {limit}")
    return found


def texts(values: Iterable[str], field: str) -> tuple[str, ...]:
    """Several texts."""
    return tuple(text(value, field) for value in items(values, field))


def lines(values: Iterable[str], field: str) -> tuple[str, ...]:
    """Several single lines."""
    return tuple(line(value, field) for value in items(values, field))


def mapping(values: Mapping[str, str], field: str) -> dict[str, str]:
    """Names and texts."""
    items(values, field)
    for name, value in values.items():
        if not name or "=" in name:
            raise refuse(field, name, "a name is not empty and has no '='")
        line(name, field)
        text(value, field)
    return dict(values)


def attempt(value: int) -> int:
    """The number of an attempt."""
    if value < 1:
        raise refuse("The attempt", value, "attempts count from 1")
    return value


def index(value: int) -> int:
    """The index of a job in its run."""
    if value >= JOBS:
        raise refuse("The job's index", value, f"a run has at most {JOBS} jobs")
    return value


def count(value: int, field: str) -> int:
    """A number that a database can keep."""
    if value > LARGEST:
        raise refuse(field, value, f"it is at most {LARGEST}")
    return value


def epoch(value: int) -> int:
    """The number of a driver."""
    return count(value, "The epoch")


def port(value: int) -> int:
    """A port, or 0 for any free one."""
    if value > 65535:
        raise refuse("A port", value, "it is from 0 to 65535")
    return value


def instant_to_wire(at: datetime) -> Timestamp:
    """A time to the microsecond."""
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def instant_from_wire(wire: Timestamp) -> datetime:
    """A time in UTC, to the microsecond."""
    if not 0 < wire.seconds <= _LAST_SECOND or not 0 <= wire.nanos < _NANOS:
        raise refuse("The time", (wire.seconds, wire.nanos), "it lies between 1970 and 9999")
    return _EPOCH + timedelta(seconds=wire.seconds, microseconds=wire.nanos // 1000)


def seconds_to_wire(seconds: float) -> Duration:
    """A length of time to the nanosecond."""
    whole, nanos = divmod(round(seconds * _NANOS), _NANOS)
    return Duration(seconds=whole, nanos=nanos)


def seconds_from_wire(wire: Duration) -> float:
    """A length of time in seconds, never negative."""
    if wire.seconds < 0 or not 0 <= wire.nanos < _NANOS or wire.seconds > _LAST_SECOND:
        raise refuse("The duration", (wire.seconds, wire.nanos), "it is not negative")
    return (wire.seconds * _NANOS + wire.nanos) / _NANOS
