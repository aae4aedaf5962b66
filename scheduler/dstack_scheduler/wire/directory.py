"""Which agents there are, as clients that can be called: for a command and for a daemon."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.membership.roll import RollCall
from dstack_mesh.wire.channels import Channels
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.wire.agent import GrpcAgent

GATHER_SECONDS = 4.0
"""So long a command looks for agents: multicast answers within three seconds."""

FRESH_SECONDS = 5.0
"""So long a command believes what it found. Longer: newcomers are asked later."""

FIND_SECONDS = 2.0
"""So long a command looks for one agent that it lost."""


class Clients:
    """One client for each agent and address.

    Args:
        store: Where trees come from and go to.
        socket: Where the agent of this home serves; without it that agent is not spoken to.
    """

    def __init__(self, channels: Channels, store: ChunkStore, socket: Path | None = None) -> None:
        self._channels = channels
        self._store = store
        self._socket = socket
        self._made: dict[PeerId, tuple[Address, GrpcAgent]] = {}

    def of(self, known: KnownAgent) -> GrpcAgent:
        """The client of an agent at the address that works now."""
        peer = known.card.peer_id
        here = known.local and self._socket is not None
        address = Address(f"unix:{self._socket}") if here else known.addresses[0]
        made = self._made.get(peer)
        if made is not None and made[0] == address and made[1].card == known.card:
            return made[1]
        channel = self._channels.to_peer(peer, address)
        agent = GrpcAgent(channel, known.card, known.local, self._store)
        self._made[peer] = (address, agent)
        return agent


class CommandDirectory:
    """For a command: looks when it is asked, and believes for a few seconds what it found."""

    def __init__(self, roll: RollCall, clients: Clients) -> None:
        self._roll = roll
        self._clients = clients
        self._found: dict[PeerId, GrpcAgent] = {}
        self._looked_at = -FRESH_SECONDS

    async def agents(self) -> AsyncGenerator[Agent, None]:
        if time.monotonic() - self._looked_at < FRESH_SECONDS:
            for agent in list(self._found.values()):
                yield agent
            return
        found: dict[PeerId, GrpcAgent] = {}
        async with aclosing(self._roll.gather(GATHER_SECONDS)) as gathered:
            async for known in gathered:
                if _answers(known) and known.card.peer_id not in found:
                    found[known.card.peer_id] = self._found[known.card.peer_id] = self._clients.of(
                        known
                    )
                    yield found[known.card.peer_id]
        self._found = found
        self._looked_at = time.monotonic()

    async def find(self, peer_id: PeerId) -> Agent | None:
        """The agent; looked for again if it was not seen for a few seconds."""
        if time.monotonic() - self._looked_at < FRESH_SECONDS and peer_id in self._found:
            return self._found[peer_id]
        gathered = self._roll.gather(
            FIND_SECONDS, need=lambda found: any(one.card.peer_id == peer_id for one in found)
        )
        async with aclosing(gathered):
            async for known in gathered:
                if _answers(known):
                    self._found[known.card.peer_id] = self._clients.of(known)
        return self._found.get(peer_id)


class DaemonDirectory:
    """For a daemon, which keeps its view up to date by itself.

    Args:
        own: The daemon's own agent, which takes jobs like any other.
    """

    def __init__(self, roll: RollCall, clients: Clients, own: Agent) -> None:
        self._roll = roll
        self._clients = clients
        self._own = own

    async def agents(self) -> AsyncGenerator[Agent, None]:
        yield self._own
        for known in self._roll.agents():
            if _answers(known) and known.card.peer_id != self._own.card.peer_id:
                yield self._clients.of(known)

    async def find(self, peer_id: PeerId) -> Agent | None:
        if peer_id == self._own.card.peer_id:
            return self._own
        for known in self._roll.agents():
            if known.card.peer_id == peer_id and known.addresses:
                return self._clients.of(known)
        return None


def _answers(known: KnownAgent) -> bool:
    return known.state != "gone" and (known.local or bool(known.addresses))
