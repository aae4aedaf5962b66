"""What this agent knows of the mesh's members, and what follows from it here at once.

When the roster changes, open calls of whoever was revoked end, channels to them are closed, the
jobs that they gave us end if that was said, and other agents are told.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence

from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.picture import Belonging, Picture, empty
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.roster import open_keeper
from dstack_mesh.wire.spreading import RosterSpreading
from dstack_mesh.wire.standings import Standings
from dstack_mesh.wire.vetting import may_run

log = logging.getLogger(__name__)

EndJobs = Callable[[frozenset[PeerId]], Awaitable[None]]

AGAIN_SECONDS = 5.0
"""Before it is tried again to end the jobs of revoked peers, where that failed."""


class Members:
    """The members of the agent's mesh; of a private agent's none. `run` must run.

    Args:
        home: Where the roster is kept.
        membership: None for a private agent.
    """

    def __init__(self, home: Home, membership: Membership | None) -> None:
        self.keeper: Keeper | None = open_keeper(home, membership) if membership else None
        self._nobody = empty(membership.mesh_id if membership else MeshId(""))
        self.standings = Standings(self.picture)
        self._news = asyncio.Event()
        if self.keeper is not None:
            self.keeper.subscribe(self._changed)

    def picture(self) -> Picture:
        """What is known now."""
        return self.keeper.picture if self.keeper else self._nobody

    def subscribe(self, listener: Callable[[Picture], None]) -> None:
        """Calls it after every change, in the event loop, before anybody else is told."""
        if self.keeper is not None:
            self.keeper.subscribe(listener)

    def digest(self) -> str:
        """Differs from another peer's if either knows something that the other does not."""
        return self.picture().digest

    def name(self, peer_id: PeerId) -> str:
        """What the roster calls a member; empty if it does not speak of it."""
        one = self.picture().members.get(peer_id)
        return one.name if one is not None else ""

    def role(self, peer_id: PeerId) -> Role | None:
        """The role of a member; None if the roster does not speak of it."""
        one = self.picture().members.get(peer_id)
        return one.role if one is not None else None

    def revoked(self, peer_id: PeerId) -> bool:
        """Whether a peer was shut out for ever."""
        return self.picture().belonging(peer_id) is Belonging.REVOKED

    def may_run(self, agent: KnownAgent) -> bool:
        """Whether work may be given to an agent."""
        return agent.local or may_run(self.picture(), agent)

    async def run(
        self,
        channels: Channels,
        agents: Callable[[], Sequence[KnownAgent]],
        clock: Clock,
        end_jobs: EndJobs | None = None,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        """Keeps the roster up to date here and at others, until cancelled.

        Args:
            channels: To others.
            agents: Who is there.
            clock: For waiting.
            end_jobs: Ends the jobs that these peers gave us.
            again_seconds: Before it is tried again to end them, where that failed.
        """
        if self.keeper is None:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.keeper.run())
            tasks.create_task(RosterSpreading(self.keeper, channels, agents, clock).run())
            while True:
                picture = self.picture()
                await channels.shut(picture.shut_out())
                ended = end_jobs is None or await _ended(end_jobs, picture.stopped())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if ended else again_seconds):
                        await self._news.wait()
                self._news.clear()

    def _changed(self, picture: Picture) -> None:
        self.standings.changed(picture)
        self._news.set()


async def _ended(end_jobs: EndJobs, peers: frozenset[PeerId]) -> bool:
    """Whether the jobs of these peers are told to end; a full disk must not end the agent."""
    try:
        if peers:
            await end_jobs(peers)
    except (MeshError, sqlite3.Error, OSError) as error:
        log.warning("the jobs of revoked peers are not ended yet: %s", error)
        return False
    return True
