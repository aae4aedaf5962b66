"""RecordService of an agent: exchanges records with others, and tells what they say of others."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import Any

import grpc

from dstack_agent.hearsay import Hearsay
from dstack_agent.servicers.resting import Rests
from dstack_mesh.faults import Busy, TooLate
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.records.port import Book
from dstack_mesh.records.replica import Outcome
from dstack_mesh.trust.roster.picture import RUNNING
from dstack_mesh.v1 import records_pb2 as pb
from dstack_mesh.v1 import records_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member, caller
from dstack_mesh.wire.records import Assembly, frames, versions_from_wire, versions_to_wire
from dstack_scheduler.wire import convert, fields
from dstack_scheduler.wire.hearsay import advert_to_wire

MOST_CALLS = 16
"""Exchanges and pushes at a time; each may hold one stream in memory."""

MOST_OF_ONE = 2
"""Of them by one peer."""

MOST_OF_LISTENERS = 4
"""Of them by all members that take no jobs: these have nothing to tell, and hold up who does."""

STEP_SECONDS = 10.0
"""A reader or writer on whose stream nothing moves for so long is left."""


@frozen
class Gossiping:
    """What the service speaks for.

    Attributes:
        behind: Told of a peer that pushed what did not fit.
    """

    book: Book
    hearsay: Hearsay
    behind: Callable[[PeerId], None]


class RecordServicer(rpc.RecordServiceServicer):
    """Serves agents that gossip, and commands that ask about others."""

    def __init__(self, gossiping: Gossiping, rests: Rests) -> None:
        self._rests = rests
        self._book = gossiping.book
        self._hearsay = gossiping.hearsay
        self._behind = gossiping.behind
        self._calls: Counter[PeerId | None] = Counter()
        self._listening = 0

    # Writes by itself instead of yielding: each write has a deadline.
    async def Exchange(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        request: pb.RecordServiceExchangeRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        known = versions_from_wire(request.known)
        with self._counted(context):
            streams = versions_to_wire(self._book.versions())
            await _written(context, pb.StreamVersions(streams=streams))
            for delta in self._book.lacking(known):
                for frame in frames(delta):
                    await _written(context, frame)

    async def Push(
        self,
        request_iterator: AsyncIterator[pb.RecordServicePushRequest],
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> pb.RecordServicePushResponse:
        with self._counted(context) as source:
            outcomes = Counter[Outcome]()
            assembly = Assembly(self._book)
            async for request in _read(request_iterator):
                delta = assembly.take(request.frame)
                if delta is not None:
                    outcomes[await self._book.take(delta, source)] += 1
            behind = bool(outcomes[Outcome.UNFIT])
            if behind and source is not None:
                self._behind(source)
            return pb.RecordServicePushResponse(news=outcomes[Outcome.TAKEN], behind=behind)

    async def Agents(
        self, request: pb.AgentsRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.AgentsResponse:
        async with self._rests.turn(context):
            return pb.AgentsResponse(agents=map(advert_to_wire, self._hearsay.adverts()))

    async def Tails(
        self, request: pb.TailsRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.TailsResponse:
        run_id = fields.run_id(request.run_id)
        async with self._rests.turn(context):
            found = self._hearsay.tails(run_id)
            return pb.TailsResponse(tails=map(convert.log_tail_to_wire, found))

    @contextmanager
    def _counted(self, context: "grpc.aio.ServicerContext[Any, Any]") -> Generator[PeerId | None]:
        """Who calls, if they may: the memory of all calls together is bounded."""
        who = caller(context)
        peer = who.peer_id if isinstance(who, Member) else None
        listens = isinstance(who, Member) and who.role not in RUNNING
        full = self._calls.total() >= MOST_CALLS or self._calls[peer] >= MOST_OF_ONE
        if full or (listens and self._listening >= MOST_OF_LISTENERS):
            raise Busy(
                "Too many exchange records at once.",
                f"At most {MOST_CALLS}, {MOST_OF_ONE} of one peer, and {MOST_OF_LISTENERS} of those"
                " that take no jobs.",
            )
        self._calls[peer] += 1
        self._listening += listens
        try:
            yield peer
        finally:
            self._calls[peer] -= 1
            self._listening -= listens


async def _written(
    context: "grpc.aio.ServicerContext[Any, Any]", what: pb.RecordFrame | pb.StreamVersions
) -> None:
    response = (
        pb.RecordServiceExchangeResponse(frame=what)
        if isinstance(what, pb.RecordFrame)
        else pb.RecordServiceExchangeResponse(known=what)
    )
    try:
        async with asyncio.timeout(STEP_SECONDS):
            await context.write(response)
    except TimeoutError as error:
        raise TooLate(f"The reader took nothing for {STEP_SECONDS:.0f} s.") from error


async def _read(
    requests: AsyncIterator[pb.RecordServicePushRequest],
) -> AsyncIterator[pb.RecordServicePushRequest]:
    while True:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                request = await anext(requests, None)
        except TimeoutError as error:
            raise TooLate(f"The writer sent nothing for {STEP_SECONDS:.0f} s.") from error
        if request is None:
            return
        yield request
