"""Brings the roster together with the live agents, again and again."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random

from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.picture import Picture, digest_of
from dstack_mesh.trust.roster.spreading import Live, Pace, Spreading
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.roster import RosterClient

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often it is seen who is there and what they said of their rosters."""


class RosterSpreading:
    """The roster's exchanges of one agent. Must run.

    Args:
        keeper: What is known here.
        channels: To others.
        agents: Who is there, as the roll knows it.
        clock: For waiting.
        pace: How often.
    """

    def __init__(
        self,
        keeper: Keeper,
        channels: Channels,
        agents: Callable[[], Sequence[KnownAgent]],
        clock: Clock,
        pace: Pace | None = None,
    ) -> None:
        self._keeper = keeper
        self._channels = channels
        self._agents = agents
        self._clock = clock
        self._core = Spreading(keeper.picture.digest, Random(), pace or Pace())
        self._news = asyncio.Event()
        keeper.subscribe(self._changed)

    async def run(self) -> None:
        """Exchanges until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._news.clear()
                for peer_id, address in self._due():
                    tasks.create_task(self._exchange(peer_id, address))
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._news.wait()
                except TimeoutError:
                    continue

    def _changed(self, picture: Picture) -> None:
        self._core.changed(picture.digest)
        self._news.set()

    def _due(self) -> list[tuple[PeerId, Address]]:
        out = self._keeper.picture.shut_out()
        there = {
            one.card.peer_id: one
            for one in self._agents()
            if one.state not in ("gone", "suspect")
            and one.addresses
            and not one.local
            and one.card.peer_id not in out
        }
        live = (Live(peer_id, one.card.roster) for peer_id, one in there.items())
        due = self._core.due(live, self._clock.elapsed())
        return [(peer_id, there[peer_id].addresses[0]) for peer_id in due if peer_id in there]

    async def _exchange(self, peer_id: PeerId, address: Address) -> None:
        try:
            channel = self._channels.to_peer(peer_id, address)  # who was revoked is not dialled
            exchanged = await RosterClient(channel, address).exchange(self._keeper)
        except (MeshError, OSError) as failed:
            log.debug("the roster was not exchanged with %s: %s", peer_id, failed)
            self._core.failed(peer_id, self._clock.elapsed())
        else:
            self._core.done(peer_id, digest_of(exchanged.theirs), self._clock.elapsed())
        self._news.set()
