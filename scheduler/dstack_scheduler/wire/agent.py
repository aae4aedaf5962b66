"""Talks to an agent over gRPC: `GrpcAgent` implements `agent_port.Agent`.

Every call has a deadline but Attach, which lasts as long as its job: keepalive ends that one when
the agent is gone.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc.aio

from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.ids import Digest, HoldId, RunId
from dstack_mesh.signing import Signed
from dstack_mesh.v1 import auction_pb2, run_pb2
from dstack_mesh.v1.auction_pb2_grpc import AuctionServiceStub
from dstack_mesh.v1.run_pb2_grpc import RunServiceStub
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.transfer import TransferClient
from dstack_scheduler.agent_port import Attachment, DrivenJob, Hold, Listing, Question
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.job import JobKey, JobSpec, RunRecord, TagRecord
from dstack_scheduler.refusal import refusal
from dstack_scheduler.verdict import Bid, Never
from dstack_scheduler.wire import convert, questions
from dstack_scheduler.wire.attachment import GrpcAttachment, Requests
from dstack_scheduler.wire.behalf import behalf_to_wire

if TYPE_CHECKING:
    from dstack_scheduler.wire.errand import ErrandClient
    from dstack_scheduler.wire.tunnel import TunnelClient

ASK_SECONDS = 2.0
"""Above the auction's own deadline, which decides."""

QUICK_SECONDS = 5.0
"""For what touches memory or one row on the other side."""

WRITE_SECONDS = 15.0
"""For what must be on the other side's disk."""

BEHIND_ALL = "~"
"""Comes after every id of a run."""

OLDER_SECONDS = 1.2
"""Older runs are read from further answers for so long: whoever lists waits for no agent longer,
and the newest will do."""


class GrpcAgent:
    """An agent behind a channel.

    Args:
        local: Whether it is the agent of this home, reached by its Unix socket.
        store: Where trees come from and go to.
        behalf: For whom is asked. Another agent knows who calls, and what they say narrows a stop.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        card: PeerCard,
        local: bool,
        store: ChunkStore,
        behalf: Asker = OWNER,
    ) -> None:
        self._channel = channel
        self._card = card
        self._local = local
        self._store = store
        self._behalf = behalf_to_wire(behalf)
        self._auction = AuctionServiceStub(channel)
        self._runs = RunServiceStub(channel)
        self._transfer = TransferClient(channel, store)

    @property
    def card(self) -> PeerCard:
        return self._card

    @property
    def local(self) -> bool:
        return self._local

    async def ask(self, question: Question) -> Bid:
        request = questions.ask_to_wire(question)
        try:
            with translated(self._card.name):
                bid = await self._auction.Ask(request, timeout=ASK_SECONDS, metadata=self._behalf)
        except Refused as refused:  # a word about one side's software, which asking again repeats
            if refused.code != "protocol-too-old":
                raise
            return Bid(Never((refusal(refused),)))
        return questions.bid_from_wire(bid)

    async def reserve(self, question: Question, epoch: int) -> Hold:
        request = questions.reserve_to_wire(question, epoch)
        with translated(self._card.name):
            hold = await self._auction.Reserve(
                request, timeout=QUICK_SECONDS, metadata=self._behalf
            )
        return questions.hold_from_wire(hold)

    async def commit(
        self, hold_id: HoldId, epoch: int, spec: JobSpec, secrets: Mapping[str, str]
    ) -> None:
        request = auction_pb2.CommitRequest(
            hold_id=hold_id, epoch=epoch, spec=convert.spec_to_wire(spec), secrets=secrets
        )
        with translated(self._card.name):
            await self._auction.Commit(request, timeout=WRITE_SECONDS, metadata=self._behalf)

    async def release(self, hold_id: HoldId) -> None:
        request = auction_pb2.ReleaseRequest(hold_id=hold_id)
        with translated(self._card.name):
            await self._auction.Release(request, timeout=QUICK_SECONDS)

    @asynccontextmanager
    async def attach(self) -> AsyncGenerator[Attachment]:
        requests = Requests()
        call = self._runs.Attach(aiter(requests), metadata=self._behalf)
        try:
            yield GrpcAttachment(call, requests, self._store, self._card.name)
        finally:
            call.cancel()

    async def list_runs(
        self, runs: Sequence[str] = (), reuse_keys: Sequence[Digest] = ()
    ) -> Listing:
        request = run_pb2.ListRequest(runs=runs, reuse_keys=reuse_keys)
        until = asyncio.get_running_loop().time() + OLDER_SECONDS
        listing, more = await self._page(request)
        told = list(listing.runs)
        with suppress(MeshError, TimeoutError):
            async with asyncio.timeout_at(until):
                while more:
                    request.before = told[-1].run_id if told else BEHIND_ALL
                    older, more = await self._page(request)
                    told += older.runs
                    more = more and bool(older.runs) and told[-1].run_id < request.before
        return replace(listing, runs=tuple(told), cut=more)

    async def _page(self, request: run_pb2.ListRequest) -> tuple[Listing, bool]:
        """One answer, and whether there are older runs."""
        with translated(self._card.name):
            page = await self._runs.List(request, timeout=QUICK_SECONDS)
        return convert.listing_from_wire(page), page.more

    async def stop(self, run_id: RunId, job: int | None, abort: bool, cause: str) -> int:
        request = run_pb2.StopRequest(run_id=run_id, job=job, abort=abort, cause=cause)
        with translated(self._card.name):
            answer = await self._runs.Stop(request, timeout=QUICK_SECONDS, metadata=self._behalf)
        return answer.jobs

    async def drive(self, record: RunRecord, jobs: Sequence[DrivenJob], epoch: int) -> None:
        request = run_pb2.DriveRequest(
            record=convert.run_record_to_wire(record),
            jobs=[convert.driven_to_wire(job) for job in jobs],
            epoch=epoch,
        )
        with translated(self._card.name):
            await self._runs.Drive(request, timeout=WRITE_SECONDS)

    async def tag(self, tag: TagRecord) -> None:
        request = run_pb2.TagRequest(tag=convert.tag_to_wire(tag))
        with translated(self._card.name):
            await self._runs.Tag(request, timeout=WRITE_SECONDS)

    async def remove(self, run_id: RunId) -> None:
        request = run_pb2.RemoveRequest(run_id=run_id)
        with translated(self._card.name):
            await self._runs.Remove(request, timeout=WRITE_SECONDS)

    async def forget_caches(self, repo: str, workflow: str) -> int:
        request = run_pb2.RemoveRequest(caches=run_pb2.CachesOf(repo=repo, workflow=workflow))
        with translated(self._card.name):
            return (await self._runs.Remove(request, timeout=WRITE_SECONDS)).caches

    async def reload(self, key: JobKey, code: Digest) -> Replaced:
        request = run_pb2.ReloadRequest(key=convert.key_to_wire(key), code_digest=code)
        with translated(self._card.name):
            done = await self._runs.Reload(request, timeout=WRITE_SECONDS)
        return Replaced(done.made, done.removed)

    async def vouch(self, run_id: RunId, job: int, signed: Signed) -> None:
        from dstack_scheduler.wire.evidence import EvidenceClient  # a run that starts does without

        client = EvidenceClient(self._channel, self._card.name, self._behalf)
        await client.vouch(run_id, job, signed)

    def tunnel(self) -> "TunnelClient":
        """The way to what its jobs listen on."""
        from dstack_scheduler.wire.tunnel import TunnelClient  # most runs have no apps

        return TunnelClient(self._channel, self._card.name)

    def errands(self) -> "ErrandClient":
        """Runs commands beside its jobs."""
        from dstack_scheduler.wire.errand import ErrandClient  # most commands run none

        return ErrandClient(self._channel, self._card.name)

    async def send_tree(self, digest: Digest) -> int:
        return await self._transfer.send_tree(digest)

    async def fetch_tree(self, digest: Digest) -> int:
        return await self._transfer.fetch_tree(digest)
