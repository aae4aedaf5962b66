"""RunService of an agent: watching and steering the runs it executes or drives."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from dstack_agent.servicers.attach import Attachment, Wishes, stop_from_wire
from dstack_agent.servicers.auction import asker_of
from dstack_mesh.frozen import frozen
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire.caller import caller
from dstack_mesh.wire.rights import check_right
from dstack_scheduler.agent_port import DrivenJob, Listing
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import RunRecord, TagRecord
from dstack_scheduler.wire import convert, fields

STOP = "/dstack_mesh.v1.RunService/Stop"
"""Whoever may call it may also say it on a stream."""

MOST_RUNS = 10_000
"""Names that one List may ask for."""


@frozen
class Runs:
    """What the agent can do with runs beyond following them.

    Attributes:
        listing: Those among the names, or all.
        drive: Takes a run over from whoever calls. Raises Conflict.
        tag: Writes a statement down.
    """

    listing: Callable[[tuple[str, ...]], Listing]
    drive: Callable[[RunRecord, tuple[DrivenJob, ...], int, Asker], Awaitable[None]]
    tag: Callable[[TagRecord], Awaitable[None]]


class RunServicer(rpc.RunServiceServicer):
    """Serves readers of runs."""

    def __init__(self, wishes: Wishes, runs: Runs) -> None:
        self._wishes = wishes
        self._runs = runs

    # Writes by itself instead of yielding: several pumps share the stream.
    async def Attach(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        request_iterator: AsyncIterator[pb.AttachRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        may_stop = partial(check_right, STOP, caller(context))
        await Attachment(self._wishes, context.write, may_stop).serve(request_iterator)

    async def List(
        self, request: pb.ListRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.ListResponse:
        names = fields.items(request.runs, "Names of runs", MOST_RUNS)
        return convert.listing_to_wire(self._runs.listing(names))

    async def Stop(
        self, request: pb.StopRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.StopResponse:
        return pb.StopResponse(jobs=await self._wishes.stop(*stop_from_wire(request)))

    async def Drive(
        self, request: pb.DriveRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.DriveResponse:
        jobs = tuple(convert.driven_from_wire(job) for job in request.jobs)
        record = convert.run_record_from_wire(request.record)
        await self._runs.drive(record, jobs, request.epoch, asker_of(context))
        return pb.DriveResponse()

    async def Tag(
        self, request: pb.TagRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.TagResponse:
        await self._runs.tag(convert.tag_from_wire(request.tag))
        return pb.TagResponse()
