"""A run and its jobs as bytes that are kept: whoever drives it, or submitted it, has them."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from dstack_mesh.faults import Invalid
from dstack_mesh.v1 import run_pb2
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import RunRecord
from dstack_scheduler.wire import convert


def pack_drive(record: RunRecord, jobs: Sequence[DrivenJob], epoch: int = 0) -> bytes:
    """A run as its driver keeps it; `epoch` is the driver's."""
    return run_pb2.DriveRequest(
        record=convert.run_record_to_wire(record),
        jobs=[convert.driven_to_wire(job) for job in jobs],
        epoch=epoch,
    ).SerializeToString()


def unpack_drive(stored: bytes) -> tuple[RunRecord, tuple[DrivenJob, ...], int]:
    """The run, its jobs and the epoch. Raises Invalid if the bytes are none of these."""
    try:
        wire = run_pb2.DriveRequest.FromString(stored)
    except DecodeError as error:
        raise Invalid("These bytes are no run.", f"{error}.") from error
    jobs = tuple(convert.driven_from_wire(job) for job in wire.jobs)
    return convert.run_record_from_wire(wire.record), jobs, wire.epoch
