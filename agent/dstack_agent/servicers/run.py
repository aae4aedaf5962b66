"""RunService of an agent: watching and steering the runs it executes or drives."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import grpc

from dstack_agent.servicers.attach import Attachment, Wishes, stop_from_wire
from dstack_agent.servicers.auction import asker_of, behind, role_of
from dstack_agent.servicers.pages import page_of
from dstack_agent.servicers.resting import Rests
from dstack_agent.servicers.share import Share
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire.caller import Caller, Member, caller
from dstack_mesh.wire.rights import check_stop
from dstack_scheduler.agent_port import DrivenJob, Listing
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import JobKey, RunRecord, TagRecord
from dstack_scheduler.wire import convert, fields

MOST_RUNS = 10_000
"""Names that one List may ask for."""

MOST_KEYS = 1_000
"""Reuse keys, likewise."""


@frozen
class Runs:
    """What the agent can do with runs beyond following them.

    Attributes:
        runs: Those among the names, those with one of the reuse keys, or all, newest first; only
            those with ids before the last argument, if it is not empty.
        beside: What is told beside runs of such names.
        drive: Takes a run over from whoever calls. Raises Conflict.
        tag: Writes a statement of a peer down. Raises Busy.
        stopped: Hears who ended a run, for whom, whether at once, and who gave it to this agent.
        tagged: Hears who made a statement that was written down.
        remove: Takes a run out of all lists for whoever calls. Raises Refused, Missing, Forbidden.
        removed: Hears who removed a run, and who gave it to this agent.
        forget: Lets go of a peer's caches of a repository's workflow; how many there were.
        reload: Lays newer code into a running job of a peer. Raises Missing, Refused, Forbidden.
    """

    runs: Callable[[tuple[str, ...], tuple[Digest, ...], str], Iterable[RunRecord]]
    beside: Callable[[tuple[str, ...]], Listing]
    drive: Callable[[RunRecord, tuple[DrivenJob, ...], int, Asker], Awaitable[None]]
    tag: Callable[[TagRecord, PeerId], Awaitable[None]]
    stopped: Callable[[Caller, Asker, RunId, bool, frozenset[PeerId]], None]
    tagged: Callable[[Caller, TagRecord], None]
    remove: Callable[[RunId, Caller], Awaitable[None]]
    removed: Callable[[Caller, RunId], None]
    forget: Callable[[PeerId, str, str], Awaitable[int]]
    reload: Callable[[JobKey, Digest, PeerId], Awaitable[Replaced]]


class RunServicer(rpc.RunServiceServicer):
    """Serves readers of runs."""

    def __init__(self, wishes: Wishes, runs: Runs, rests: Rests) -> None:
        self._wishes = wishes
        self._runs = runs
        self._rests = rests
        # As many entries as there are members.
        self._shares: defaultdict[Caller, Share] = defaultdict(Share)

    # Writes by itself instead of yielding: several pumps share the stream.
    async def Attach(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        request_iterator: AsyncIterator[pb.AttachRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        who = caller(context)
        stop = partial(self._stop, who, asker_of(context), behind(context))
        share = self._shares[who]
        await Attachment(self._wishes, context.write, stop, share).serve(request_iterator)

    async def List(
        self, request: pb.ListRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.ListResponse:
        names = fields.items(request.runs, "Names of runs", MOST_RUNS)
        asked = fields.items(request.reuse_keys, "Reuse keys", MOST_KEYS)
        keys = tuple(fields.digest(each, "The reuse key") for each in asked)
        further = bool(request.before)
        async with self._rests.turn(context, further):
            beside = Listing((), ()) if further or keys else self._runs.beside(names)
            return page_of(beside, self._runs.runs(names, keys, request.before))

    async def Stop(
        self, request: pb.StopRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.StopResponse:
        who, asker = caller(context), asker_of(context)
        stopped = await self._stop(who, asker, behind(context), *stop_from_wire(request))
        return pb.StopResponse(jobs=stopped)

    async def Drive(
        self, request: pb.DriveRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.DriveResponse:
        jobs = tuple(convert.driven_from_wire(job) for job in request.jobs)
        record = convert.run_record_from_wire(request.record)
        epoch = fields.epoch(request.epoch)
        # Whoever may not stop a run takes it over from nobody either.
        await self._check_stop(caller(context), behind(context), record.run_id)
        await self._runs.drive(record, jobs, epoch, asker_of(context))
        return pb.DriveResponse()

    async def Tag(
        self, request: pb.TagRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.TagResponse:
        tag = convert.tag_from_wire(request.tag)
        await self._runs.tag(tag, asker_of(context).peer_id)
        self._runs.tagged(caller(context), tag)
        return pb.TagResponse()

    async def Remove(
        self, request: pb.RemoveRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.RemoveResponse:
        if request.HasField("caches"):
            repo = fields.line(request.caches.repo, "The repository", fields.PATH)
            workflow = fields.line(request.caches.workflow, "The workflow")
            peer = asker_of(context).peer_id
            return pb.RemoveResponse(caches=await self._runs.forget(peer, repo, workflow))
        run_id, who = fields.run_id(request.run_id), caller(context)
        await self._runs.remove(run_id, who)
        self._runs.removed(who, run_id)
        return pb.RemoveResponse()

    async def Reload(
        self, request: pb.ReloadRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.ReloadResponse:
        key = convert.key_from_wire(request.key)
        code = fields.digest(request.code_digest, "The code's digest")
        done = await self._runs.reload(key, code, asker_of(context).peer_id)
        return pb.ReloadResponse(made=done.made, removed=done.removed)

    async def _stop(
        self,
        who: Caller,
        asker: Asker,
        behalf: Asker,
        run_id: RunId,
        job: int | None,
        abort: bool,
        cause: str,
    ) -> int:
        """Ends a run, or one job of it; how many jobs that concerns. Raises Forbidden."""
        givers = await self._check_stop(who, behalf, run_id)
        jobs = await self._wishes.stop(run_id, job, abort, cause)
        self._runs.stopped(who, asker, run_id, abort, givers)
        return jobs

    async def _check_stop(self, who: Caller, behalf: Asker, run_id: RunId) -> frozenset[PeerId]:
        """The peers that gave the run to this agent. Raises Forbidden.

        Whoever drives for somebody else may no more than they.
        """
        check_stop(who, run_id)
        if not behalf.is_owner:
            check_stop(Member(behalf.peer_id, role_of(behalf)), run_id)
        return await self._wishes.givers(run_id)
