"""Exchanges statements about members with whoever calls, and renews certificates."""

from typing import Any

import grpc

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Forbidden, Refused
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import can_invite
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member, caller
from dstack_mesh.wire.roster import Turns, answer


class RosterServicer(rpc.RosterServiceServicer):
    """RosterService of an agent of a mesh.

    Args:
        home: May hold a key that signs certificates.
        keeper: The roster.
        clock: For the life of certificates.
    """

    def __init__(self, home: Home, keeper: Keeper, clock: Clock) -> None:
        self._home = home
        self._keeper = keeper
        self._clock = clock
        self._turns = Turns()

    async def Exchange(
        self, request: pb.ExchangeRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.ExchangeResponse:
        who = caller(context)
        async with self._turns.of(who.peer_id if isinstance(who, Member) else None):
            return await answer(self._keeper, request)

    async def Renew(
        self, request: pb.RenewRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.RenewResponse:
        who = caller(context)
        if not isinstance(who, Member):
            raise Forbidden("Only a member's certificate is renewed.", code="no-right")
        if not can_invite(self._home):
            raise Refused("This agent holds no key that signs certificates.", code="cannot-invite")
        # Loads the library that signs, which most agents do without.
        from dstack_mesh.wire.renewal import renew

        granted = await renew(self._home, self._keeper, who, request, self._clock.now())
        return pb.RenewResponse(
            certificate_pem=granted.certificate_pem, issuer_pem=granted.issuer_pem
        )
