"""Invites newcomers on behalf of the owner's commands, for as long as the agent runs."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc

from dstack_agent.bell import Bell
from dstack_mesh.faults import Busy, Invalid
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.trust.invite import Expired, why_not
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.v1 import admission_pb2 as pb
from dstack_mesh.v1 import admission_pb2_grpc as rpc
from dstack_mesh.wire.admission import (
    PUBLIC_CHARACTERS,
    Invitation,
    Watched,
    serve_invitation,
    watched_to_wire,
)

log = logging.getLogger(__name__)

MOST_INVITATIONS = 16
"""Invitations that live at the same time; each has a port of its own."""


MOST_EVENTS = 256
"""Events of one invitation that are told; whoever tries codes for fun is not told of for ever."""


class Story:
    """What happens to one invitation, for whoever watches."""

    def __init__(self) -> None:
        self._told: list[Watched] = []
        self._bell = Bell()
        self._over = False

    def note(self, event: Watched) -> None:
        """Something happened."""
        if len(self._told) < MOST_EVENTS:
            self._told.append(event)
        self._bell.ring()

    def end(self, how: Watched) -> None:
        """It is over."""
        self._told.append(how)
        self._over = True
        self._bell.ring()

    async def events(self) -> AsyncGenerator[Watched]:
        """From the beginning to the end."""
        told = 0
        while True:
            strokes = self._bell.strokes
            fresh, over = self._told[told:], self._over
            told += len(fresh)
            for event in fresh:
                yield event
            if over:
                return
            await self._bell.later_than(strokes)


class InvitationServicer(rpc.InvitationServiceServicer):
    """InvitationService of an agent. `run` serves what `Invite` makes.

    Args:
        home: Holds the mesh's root key or an admin's, or every Invite is refused.
        seeds: Addresses of agents for the newcomer, as they are when it joins.
        host: Where the listeners stand.
        keeper: The roster; opened from the home by default.
    """

    def __init__(
        self,
        home: Home,
        seeds: Callable[[], tuple[Address, ...]],
        host: str = "0.0.0.0",
        keeper: Keeper | None = None,
    ) -> None:
        self._home = home
        self._seeds = seeds
        self._host = host
        self._keeper = keeper
        self._asked: asyncio.Queue[tuple[pb.InviteRequest, asyncio.Future[Invitation]]] = (
            asyncio.Queue(MOST_INVITATIONS)
        )
        self._live = 0
        self._stories: dict[str, Story] = {}

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

    async def Watch(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: pb.WatchRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncGenerator[pb.WatchResponse]:
        story = self._stories.get(request.invite_id)
        if story is None:
            raise why_not(None)
        async for event in story.events():
            yield watched_to_wire(event)

    async def _serve(self, request: pb.InviteRequest, made: asyncio.Future[Invitation]) -> None:
        story = Story()

        def tell(invitation: Invitation) -> None:
            self._stories[invitation.code[:PUBLIC_CHARACTERS]] = story
            if not made.done():
                made.set_result(invitation)

        self._live += 1
        ended: Watched = Expired()
        try:
            ended = await serve_invitation(
                self._home,
                _role(request.role),
                request.lifetime_seconds,
                tell,
                on_event=story.note,
                seeds=self._seeds,
                host=self._host,
                keeper=self._keeper,
            )
        except Exception as failed:  # it belongs to whoever asked, not to the agent
            if made.done():
                log.error("an invitation ended early", exc_info=failed)
            else:
                made.set_exception(failed)
        finally:
            self._live -= 1
            story.end(ended)
            self._stories = {key: one for key, one in self._stories.items() if one is not story}
            made.cancel()


def _role(word: str) -> Role:
    try:
        return Role(word)
    except ValueError:
        raise Invalid(
            "There is no such role.", repr(word), "Choose reader, submitter, runner or admin."
        ) from None


def _to_wire(invitation: Invitation) -> pb.InviteResponse:
    response = pb.InviteResponse(code=invitation.code, addresses=invitation.addresses)
    response.expires_at.FromDatetime(invitation.expires_at)
    return response
