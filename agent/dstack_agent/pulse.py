"""When each other agent last gave a sign of life to this one."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from dstack_mesh.clock import Clock
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent

LOOK_SECONDS = 1.0

ANSWERING = frozenset({"alive", "draining", "paused"})
"""Standings of agents that answer."""


class Pulse:
    """Remembers whom the roll call heard, and when. `agents` is who is known now."""

    def __init__(self, agents: Callable[[], Sequence[KnownAgent]], clock: Clock) -> None:
        self._agents = agents
        self._clock = clock
        self._heard: dict[PeerId, datetime] = {}

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            self.answering()
            await asyncio.sleep(LOOK_SECONDS)

    def answering(self) -> dict[PeerId, KnownAgent]:
        """Who answers now."""
        found = {one.card.peer_id: one for one in self._agents() if one.state in ANSWERING}
        now = self._clock.now()
        self._heard.update(dict.fromkeys(found, now))
        return found

    def heard(self, peer_id: PeerId) -> datetime | None:
        """When it was last heard; None if that was not since our start."""
        return self._heard.get(peer_id)
