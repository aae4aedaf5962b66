"""What an agent knows of runs, in answers that gRPC takes: a run may have hundreds of jobs."""

from dataclasses import replace

from dstack_mesh.v1 import run_pb2 as pb
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.wire import convert

PAGE_BYTES = 1 << 20
"""Of our own runs in one answer. Others' are 2 MiB at most, and gRPC takes 4."""


def page_of(listing: Listing, before: str, most_bytes: int = PAGE_BYTES) -> pb.ListResponse:
    """One answer: the runs whose ids come before one, newest first, as many as fit; the first page,
    before none, has all else that is known beside."""
    page = pb.ListResponse() if before else convert.listing_to_wire(replace(listing, runs=()))
    size = 0
    for run in listing.runs:
        if before and run.run_id >= before:
            continue
        told = convert.run_record_to_wire(run)
        size += told.ByteSize()
        if page.runs and size > most_bytes:
            page.more = True
            break
        page.runs.append(told)
    return page
