"""Whether a command may give work to an agent: only if the roster says that the agent takes jobs.

A warm command reads what its home knows and compares digests: no call, no cryptography. Where an
agent's roster differs from ours, the two are brought together first.
"""

import asyncio
import logging
from datetime import UTC, datetime

from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.membership import Membership
from dstack_mesh.trust.roster.book import read_picture
from dstack_mesh.trust.roster.picture import Picture
from dstack_mesh.wire.channels import Channels

log = logging.getLogger(__name__)

WITHIN_SECONDS = 2.0
"""How long a command waits for one agent's roster."""


class Vetting:
    """Judges agents for one command. Use from one event loop."""

    def __init__(self, home: Home, channels: Channels) -> None:
        self._home = home
        self._channels = channels
        self._membership = Membership.load(home)
        self._picture: Picture | None = None
        self._compared: set[tuple[PeerId, str]] = set()
        self._turn = asyncio.Lock()

    async def may_run(self, agent: KnownAgent) -> bool:
        """Whether work may go there. The agent of this home always may."""
        if agent.local or self._membership is None:
            return True
        picture = await self._up_to_date(agent, self._membership)
        if datetime.now(UTC) >= self._membership.renewed_at:
            await self._renew(agent, picture, self._membership)
        return may_run(picture, agent)

    async def _renew(self, agent: KnownAgent, picture: Picture, membership: Membership) -> None:
        # A home without an agent of its own has nobody else who would do it.
        from dstack_mesh.wire.renewal import ask_to_renew, signing

        async with self._turn:
            if self._membership is not membership or not signing(picture, [agent]):
                return
            try:
                channel = self._channels.to_peer(agent.card.peer_id, agent.addresses[0])
                self._membership = await ask_to_renew(
                    channel, agent.card.name, self._home, membership
                )
            except MeshError as failed:
                log.debug("%s did not renew the certificate: %s", agent.card.name, failed)

    async def _up_to_date(self, agent: KnownAgent, membership: Membership) -> Picture:
        async with self._turn:
            if self._picture is None:
                self._picture = read_picture(self._home, membership.mesh_id)
            theirs = agent.card.roster
            compared = agent.card.peer_id, theirs
            if theirs and theirs != self._picture.digest and compared not in self._compared:
                try:
                    self._picture = await self._exchanged(agent, membership, self._picture)
                    self._compared.add(compared)
                except MeshError as failed:
                    log.debug("no roster exchanged with %s: %s", agent.card.name, failed)
            return self._picture

    async def _exchanged(
        self, agent: KnownAgent, membership: Membership, before: Picture
    ) -> Picture:
        # Loads the library that verifies, which a command does without while nothing changed.
        from dstack_mesh.wire.roster import RosterClient, open_keeper

        keeper = await asyncio.to_thread(open_keeper, self._home, membership)
        channel = self._channels.to_peer(agent.card.peer_id, agent.addresses[0])
        await RosterClient(channel, agent.card.name).exchange(keeper, WITHIN_SECONDS)
        return keeper.picture if keeper.picture.heads else before


def may_run(picture: Picture, agent: KnownAgent) -> bool:
    """Whether work may go to an agent, by what is known of the members.

    One that is not in the roster may only where the roster began later than the mesh; one whose
    software is too old for the mesh may not.
    """
    return agent.card.protocol >= picture.protocol and picture.may_write(agent.card.peer_id)
