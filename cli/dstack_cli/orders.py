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
    from dstack_scheduler.wire.stored import pack_drive

    file = order_file(home, record.run_id)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(file, pack_drive(record, jobs), sync=False)


def ordered(home: Home, run_id: RunId) -> Ordered | None:
    """What a run is made of; None if that is not known here."""
    from dstack_scheduler.wire.stored import unpack_drive

    try:
        record, jobs, _ = unpack_drive(order_file(home, run_id).read_bytes())
    except (FileNotFoundError, Invalid):
        return None
    return Ordered(record, jobs)
