"""Invites newcomers on behalf of the owner's commands, for as long as the agent runs."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc

from dstack_mesh.faults import Busy, Invalid
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.trust.membership import Role
from dstack_mesh.v1 import admission_pb2 as pb
from dstack_mesh.v1 import admission_pb2_grpc as rpc
from dstack_mesh.wire.admission import Invitation, serve_invitation

log = logging.getLogger(__name__)

MOST_INVITATIONS = 16
"""Invitations that live at the same time; each has a port of its own."""


class InvitationServicer(rpc.InvitationServiceServicer):
    """InvitationService of an agent. `run` serves what `Invite` makes.

    Args:
        home: Holds the mesh's root key, or every Invite is refused.
        seeds: Addresses of agents for the newcomer, as they are when it joins.
        host: Where the listeners stand.
    """

    def __init__(
        self, home: Home, seeds: Callable[[], tuple[Address, ...]], host: str = "0.0.0.0"
    ) -> None:
        self._home = home
        self._seeds = seeds
        self._host = host
        self._asked: asyncio.Queue[tuple[pb.InviteRequest, asyncio.Future[Invitation]]] = (
            asyncio.Queue(MOST_INVITATIONS)
        )
        self._live = 0

    async def run(self) -> None:
        """Serves invitations until cancelled; those that live then end with it."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                request, made = await self._asked.get()
                tasks.create_task(self._serve(request, made))

    async def Invite(
        self, request: pb.InviteRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.InviteResponse:
        if self._live >= MOST_INVITATIONS or self._asked.full():
            raise Busy("Too many invitations live now.", f"{MOST_INVITATIONS} may.")
        made: asyncio.Future[Invitation] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((request, made))
        return _to_wire(await made)

    async def _serve(self, request: pb.InviteRequest, made: asyncio.Future[Invitation]) -> None:
        def tell(invitation: Invitation) -> None:
            if not made.done():
                made.set_result(invitation)

        self._live += 1
        try:
            await serve_invitation(
                self._home,
                _role(request.role),
                request.lifetime_seconds,
                tell,
                seeds=self._seeds,
                host=self._host,
            )
        except Exception as failed:  # it belongs to whoever asked, not to the agent
            if made.done():
                log.error("an invitation ended early", exc_info=failed)
            else:
                made.set_exception(failed)
        finally:
            self._live -= 1
            made.cancel()


def _role(word: str) -> Role:
    try:
        return Role(word)
    except ValueError:
        raise Invalid(
            "There is no such role.", repr(word), "Choose reader, submitter or runner."
        ) from None


def _to_wire(invitation: Invitation) -> pb.InviteResponse:
    response = pb.InviteResponse(code=invitation.code, addresses=invitation.addresses)
    response.expires_at.FromDatetime(invitation.expires_at)
    return response
