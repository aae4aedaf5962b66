"""Exchanges statements about members with whoever calls."""

from typing import Any

import grpc

from dstack_mesh.faults import Refused
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire.roster import answer


class RosterServicer(rpc.RosterServiceServicer):
    """RosterService of an agent of a mesh."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def Exchange(
        self, request: pb.ExchangeRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.ExchangeResponse:
        return await answer(self._keeper, request)

    async def Renew(
        self, request: pb.RenewRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.RenewResponse:
        raise Refused("This agent holds no issuing key.", code="cannot-issue")
