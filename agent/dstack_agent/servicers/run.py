"""RunService of an agent: watching and steering the runs it executes or drives."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from dstack_agent.servicers.attach import Attachment, Wishes, stop_from_wire
from dstack_agent.servicers.auction import asker_of
from dstack_agent.servicers.share import Share
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire.caller import Caller, caller
from dstack_mesh.wire.rights import check_stop
from dstack_scheduler.agent_port import DrivenJob, Listing
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import RunRecord, TagRecord
from dstack_scheduler.wire import convert, fields

MOST_RUNS = 10_000
"""Names that one List may ask for."""


@frozen
class Runs:
    """What the agent can do with runs beyond following them.

    Attributes:
        listing: Those among the names, or all.
        drive: Takes a run over from whoever calls. Raises Conflict.
        tag: Writes a statement of a peer down. Raises Busy.
    """

    listing: Callable[[tuple[str, ...]], Listing]
    drive: Callable[[RunRecord, tuple[DrivenJob, ...], int, Asker], Awaitable[None]]
    tag: Callable[[TagRecord, PeerId], Awaitable[None]]


class RunServicer(rpc.RunServiceServicer):
    """Serves readers of runs."""

    def __init__(self, wishes: Wishes, runs: Runs) -> None:
        self._wishes = wishes
        self._runs = runs
        # As many entries as there are members.
        self._shares: defaultdict[Caller, Share] = defaultdict(Share)

    # Writes by itself instead of yielding: several pumps share the stream.
    async def Attach(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        request_iterator: AsyncIterator[pb.AttachRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        who = caller(context)
        may_stop, share = partial(self._check_stop, who), self._shares[who]
        await Attachment(self._wishes, context.write, may_stop, share).serve(request_iterator)

    async def List(
        self, request: pb.ListRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.ListResponse:
        names = fields.items(request.runs, "Names of runs", MOST_RUNS)
        return convert.listing_to_wire(self._runs.listing(names))

    async def Stop(
        self, request: pb.StopRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.StopResponse:
        run_id, job, abort, cause = stop_from_wire(request)
        await self._check_stop(caller(context), run_id)
        return pb.StopResponse(jobs=await self._wishes.stop(run_id, job, abort, cause))

    async def Drive(
        self, request: pb.DriveRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.DriveResponse:
        jobs = tuple(convert.driven_from_wire(job) for job in request.jobs)
        record = convert.run_record_from_wire(request.record)
        epoch = fields.epoch(request.epoch)
        # Whoever may not stop a run takes it over from nobody either.
        await self._check_stop(caller(context), record.run_id)
        await self._runs.drive(record, jobs, epoch, asker_of(context))
        return pb.DriveResponse()

    async def Tag(
        self, request: pb.TagRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.TagResponse:
        await self._runs.tag(convert.tag_from_wire(request.tag), asker_of(context).peer_id)
        return pb.TagResponse()

    async def _check_stop(self, who: Caller, run_id: RunId) -> None:
        check_stop(who, await self._wishes.givers(run_id))
