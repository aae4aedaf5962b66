"""The auction over the wire: each call is one question to the bid desk."""

from typing import Any

import grpc

from dstack_agent.bids import BidDesk
from dstack_mesh.faults import Forbidden
from dstack_mesh.ids import PeerId
from dstack_mesh.v1 import auction_pb2, auction_pb2_grpc
from dstack_mesh.wire.caller import DRIVER, Member, Owner, Stranger, caller
from dstack_scheduler.wire import fields, questions
from dstack_scheduler.wire.convert import spec_from_wire

Context = grpc.aio.ServicerContext[Any, Any]


class AuctionServicer(auction_pb2_grpc.AuctionServiceServicer):
    """Bids, holds and awards."""

    def __init__(self, desk: BidDesk) -> None:
        self._desk = desk

    async def Ask(
        self, request: auction_pb2.AskRequest, context: Context
    ) -> auction_pb2.AskResponse:
        return questions.bid_to_wire(await self._desk.ask(questions.ask_from_wire(request)))

    async def Reserve(
        self, request: auction_pb2.ReserveRequest, context: Context
    ) -> auction_pb2.ReserveResponse:
        question, epoch = questions.reserve_from_wire(request)
        return questions.hold_to_wire(await self._desk.reserve(question, epoch, _peer(context)))

    async def Commit(
        self, request: auction_pb2.CommitRequest, context: Context
    ) -> auction_pb2.CommitResponse:
        spec = spec_from_wire(request.spec)
        hold_id = fields.hold_id(request.hold_id)
        await self._desk.commit(hold_id, request.epoch, spec, dict(request.secrets))
        return auction_pb2.CommitResponse()

    async def Release(
        self, request: auction_pb2.ReleaseRequest, context: Context
    ) -> auction_pb2.ReleaseResponse:
        await self._desk.release(fields.hold_id(request.hold_id))
        return auction_pb2.ReleaseResponse()


def _peer(context: Context) -> PeerId:
    """Who calls, for the ledger; empty for the owner of this home.

    What this agent drives, whoever handed it over, comes by the owner's socket and says so.
    """
    match caller(context):
        case Owner():
            said = dict(context.invocation_metadata() or ())
            return PeerId(str(said.get(DRIVER, "")))
        case Member(peer_id):
            return peer_id
        case Stranger():
            raise Forbidden("Only members hold resources.", code="no-right")
