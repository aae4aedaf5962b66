"""The auction over the wire: each call is one question to the bid desk."""

from typing import Any

import grpc

from dstack_agent.bids import BidDesk
from dstack_mesh.faults import Forbidden, Invalid
from dstack_mesh.trust.membership import Role
from dstack_mesh.v1 import auction_pb2, auction_pb2_grpc
from dstack_mesh.wire.caller import Member, Owner, Stranger, caller
from dstack_mesh.wire.rights import STOPPING_ANY
from dstack_scheduler.asker import Asker
from dstack_scheduler.wire import fields, questions
from dstack_scheduler.wire.behalf import behalf_from_wire
from dstack_scheduler.wire.convert import spec_from_wire

Context = grpc.aio.ServicerContext[Any, Any]


class AuctionServicer(auction_pb2_grpc.AuctionServiceServicer):
    """Bids, holds and awards."""

    def __init__(self, desk: BidDesk) -> None:
        self._desk = desk

    async def Ask(
        self, request: auction_pb2.AskRequest, context: Context
    ) -> auction_pb2.AskResponse:
        question = questions.ask_from_wire(request)
        return questions.bid_to_wire(await self._desk.ask(question, asker_of(context)))

    async def Reserve(
        self, request: auction_pb2.ReserveRequest, context: Context
    ) -> auction_pb2.ReserveResponse:
        question, epoch = questions.reserve_from_wire(request)
        return questions.hold_to_wire(await self._desk.reserve(question, epoch, asker_of(context)))

    async def Commit(
        self, request: auction_pb2.CommitRequest, context: Context
    ) -> auction_pb2.CommitResponse:
        spec = spec_from_wire(request.spec)
        hold_id, epoch = fields.hold_id(request.hold_id), fields.epoch(request.epoch)
        asker = asker_of(context)
        await self._desk.commit(hold_id, epoch, spec, dict(request.secrets), asker)
        return auction_pb2.CommitResponse()

    async def Release(
        self, request: auction_pb2.ReleaseRequest, context: Context
    ) -> auction_pb2.ReleaseResponse:
        await self._desk.release(fields.hold_id(request.hold_id))
        return auction_pb2.ReleaseResponse()


def behind(context: Context) -> Asker:
    """For whom a caller says that it drives; the owner where it says nothing. It only narrows."""
    return behalf_from_wire(context.invocation_metadata())


def role_of(asker: Asker) -> Role:
    """The role of whoever is behind a call. Raises Invalid if there is no such role."""
    try:
        return Role(asker.role)
    except ValueError as error:
        raise Invalid("Nobody is behind the call.", f"It names {asker.role[:64]!r}.") from error


def asker_of(context: Context) -> Asker:
    """Who asks. Whoever drives for somebody says for whom.

    Only who may drive runs of others is heard: anybody else would be a giver of other's runs by it.
    """
    said = behind(context)
    match caller(context):
        case Owner():
            return said
        case Member(peer_id, role) if role in STOPPING_ANY and not said.is_owner:
            return Asker(peer_id, role.value, behind=said)
        case Member(peer_id, role):
            return Asker(peer_id, role.value)
        case Stranger():
            raise Forbidden("Only members ask for resources.", code="no-right")
