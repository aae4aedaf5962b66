"""Runs and tags as the bytes that a remote keeps of them, and back."""

from google.protobuf.message import DecodeError

from dstack_mesh.faults import Invalid
from dstack_mesh.v1 import remote_pb2, run_pb2
from dstack_scheduler.job import TagRecord
from dstack_scheduler.pushed import PushedLog, PushedRun
from dstack_scheduler.wire import convert, fields


def run_to_bytes(pushed: PushedRun) -> bytes:
    """The same run is the same bytes."""
    logs = [
        remote_pb2.PushedLog(
            key=convert.key_to_wire(log.key), digest=log.digest, size_bytes=log.size_bytes
        )
        for log in pushed.logs
    ]
    wire = remote_pb2.PushedRun(run=convert.run_record_to_wire(pushed.run), logs=logs)
    return wire.SerializeToString(deterministic=True)


def run_from_bytes(content: bytes) -> PushedRun:
    """A run. Bytes from anywhere. Raises Invalid."""
    wire = remote_pb2.PushedRun()
    try:
        wire.ParseFromString(content)
    except DecodeError as error:
        raise _unreadable("run") from error
    logs = tuple(
        PushedLog(
            key=convert.key_from_wire(log.key),
            digest=fields.digest(log.digest, "The log's digest"),
            size_bytes=log.size_bytes,
        )
        for log in fields.items(wire.logs, "Logs")
    )
    return PushedRun(convert.run_record_from_wire(wire.run), logs)


def tag_to_bytes(tag: TagRecord) -> bytes:
    """The same statement is the same bytes."""
    return convert.tag_to_wire(tag).SerializeToString(deterministic=True)


def tag_from_bytes(content: bytes) -> TagRecord:
    """A statement about a tag. Bytes from anywhere. Raises Invalid."""
    wire = run_pb2.TagRecord()
    try:
        wire.ParseFromString(content)
    except DecodeError as error:
        raise _unreadable("tag") from error
    return convert.tag_from_wire(wire)


def _unreadable(what: str) -> Invalid:
    return Invalid(f"A record of a {what} in the remote cannot be read.", code="remote-record")
