"""Brings a damaged chunk again from another agent; a `chunks.mending.Source` for the store."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError

from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Digest
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.copies import fetch_chunk, fetch_encoded

MOST_ASKED = 16
"""Agents that are asked for one chunk, in an order drawn by lot. More: it is found where few have
it; fewer: who reads waits less for a chunk that nobody has."""

WITHIN_SECONDS = 20.0
"""How long a reader waits for a copy."""

Ask = Callable[[KnownAgent], Awaitable[bytes]]


class Copies:
    """What other agents have. Made in the event loop, called in other threads."""

    def __init__(self, channels: Channels, known: Callable[[], Sequence[KnownAgent]]) -> None:
        self._channels = channels
        self._known = known
        self._loop = asyncio.get_running_loop()

    def chunk(self, digest: Digest) -> bytes | None:
        async def ask(agent: KnownAgent) -> bytes:
            channel = self._channels.to_peer(agent.card.peer_id, agent.addresses[0])
            return await fetch_chunk(channel, digest, agent.card.name)

        return self._wait_for(ask)

    def manifest(self, digest: Digest) -> bytes | None:
        async def ask(agent: KnownAgent) -> bytes:
            channel = self._channels.to_peer(agent.card.peer_id, agent.addresses[0])
            return await fetch_encoded(channel, digest, agent.card.name)

        return self._wait_for(ask)

    def _wait_for(self, ask: Ask) -> bytes | None:
        if _in_a_loop():  # waiting there would wait for itself
            return None
        try:
            found = asyncio.run_coroutine_threadsafe(self._first(ask), self._loop)
        except RuntimeError:  # the loop is closed: the agent stops
            return None
        try:
            return found.result(WITHIN_SECONDS)
        except (TimeoutError, CancelledError):
            found.cancel()
            return None

    async def _first(self, ask: Ask) -> bytes | None:
        agents = [
            agent
            for agent in self._known()
            if agent.addresses and not agent.local and agent.state not in ("gone", "left")
        ]
        for agent in random.sample(agents, min(len(agents), MOST_ASKED)):
            try:
                return await ask(agent)
            except MeshError:
                continue
        return None


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
