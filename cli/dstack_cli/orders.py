"""What each run that was submitted from here is made of: to start it again, or to explain it.

The specification of every job, also of those that nobody got yet, without the value of any secret.
It is kept in this home alone, for as long as the run is remembered.
"""

from collections.abc import Sequence

from dstack_cli.remembered import order_file
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import RunId
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import RunRecord


@frozen
class Ordered:
    """A run as it was submitted, its inputs from other runs looked up."""

    record: RunRecord
    jobs: tuple[DrivenJob, ...]


def keep_order(home: Home, record: RunRecord, jobs: Sequence[DrivenJob]) -> None:
    """Writes down what a run is made of. What is lost with the power is missing and no more."""
    from dstack_mesh.v1 import run_pb2
    from dstack_scheduler.wire import convert

    file = order_file(home, record.run_id)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    wire = run_pb2.DriveRequest(
        record=convert.run_record_to_wire(record),
        jobs=[convert.driven_to_wire(job) for job in jobs],
    )
    write_durably(file, wire.SerializeToString(), sync=False)


def ordered(home: Home, run_id: RunId) -> Ordered | None:
    """What a run is made of; None if that is not known here."""
    from google.protobuf.message import DecodeError

    from dstack_mesh.v1 import run_pb2
    from dstack_scheduler.wire import convert

    try:
        wire = run_pb2.DriveRequest.FromString(order_file(home, run_id).read_bytes())
        jobs = tuple(convert.driven_from_wire(job) for job in wire.jobs)
        return Ordered(convert.run_record_from_wire(wire.record), jobs)
    except (FileNotFoundError, DecodeError, Invalid):
        return None
