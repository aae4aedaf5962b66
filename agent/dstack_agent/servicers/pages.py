"""What an agent knows of runs, in answers that gRPC takes: a run may have hundreds of jobs."""

from collections.abc import Iterable

from dstack_mesh.v1 import run_pb2 as pb
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import RunRecord
from dstack_scheduler.wire import convert

PAGE_BYTES = 1 << 20
"""Of our own runs in one answer. Others' are 2 MiB at most, and gRPC takes 4."""


def page_of(
    beside: Listing, runs: Iterable[RunRecord], most_bytes: int = PAGE_BYTES
) -> pb.ListResponse:
    """One answer: as many of the runs as fit; no more of them are taken than these and one. A run
    that is larger than that has a page of its own.

    Args:
        beside: What is told beside the runs.
    """
    page, size = convert.listing_to_wire(beside), 0
    first = bool(page.ByteSize())
    for run in runs:
        told = convert.run_record_to_wire(run)
        size += told.ByteSize()
        if (page.runs or first) and size > most_bytes:
            page.more = True
            break
        page.runs.append(told)
    return page
