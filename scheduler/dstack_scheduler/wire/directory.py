"""Which agents there are, as clients that a command can call."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.membership.roll import RollCall
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.transfer import TransferClient
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.wire.agent import GrpcAgent

if TYPE_CHECKING:
    from dstack_scheduler.wire.errand import ErrandClient
    from dstack_scheduler.wire.evidence import EvidenceClient
    from dstack_scheduler.wire.hearsay import HearsayClient
    from dstack_scheduler.wire.tunnel import TunnelClient

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
        socket: Where the agent of this home serves.
    """

    def __init__(self, channels: Channels, store: ChunkStore, socket: Path) -> None:
        self._channels = channels
        self._store = store
        self._socket = socket
        self._made: dict[PeerId, tuple[Address, GrpcAgent]] = {}

    def of(self, known: KnownAgent) -> GrpcAgent:
        """The client of an agent at the address that works now."""
        peer = known.card.peer_id
        address = Address(f"unix:{self._socket}") if known.local else known.addresses[0]
        made = self._made.get(peer)
        if made is not None and made[0] == address and made[1].card == known.card:
            return made[1]
        agent = GrpcAgent(self._channel(known), known.card, known.local, self._store)
        self._made[peer] = (address, agent)
        return agent

    def transfer(self, known: KnownAgent) -> TransferClient:
        """Moves bytes from and to an agent."""
        return TransferClient(self._channel(known), self._store, known.card.name)

    def hearsay(self, known: KnownAgent) -> "HearsayClient":
        """Asks an agent about all others."""
        from dstack_scheduler.wire.hearsay import HearsayClient  # a run that starts does without

        return HearsayClient(self._channel(known), known.card.name)

    def evidence(self, known: KnownAgent) -> "EvidenceClient":
        """Asks an agent what is signed."""
        from dstack_scheduler.wire.evidence import EvidenceClient  # a run that starts does without

        return EvidenceClient(self._channel(known), known.card.name)

    def tunnel(self, peer_id: PeerId) -> "TunnelClient | None":
        """The way to what the jobs of an agent listen on; None for one that was never found."""
        made = self._made.get(peer_id)
        return made and made[1].tunnel()

    def errands(self, peer_id: PeerId) -> "ErrandClient | None":
        """Runs commands beside jobs of an agent; None for one that was never found."""
        made = self._made.get(peer_id)
        return made and made[1].errands()

    def _channel(self, known: KnownAgent) -> grpc.aio.Channel:
        if known.local:
            return self._channels.to_local(self._socket)
        return self._channels.to_peer(known.card.peer_id, known.addresses[0])


class CommandDirectory:
    """For a command: looks when it is asked, and believes for a few seconds what it found.

    Args:
        roll: Knows who is there.
        clients: To call them.
        may_run: Whether work may go to an agent; the others are not among `agents`.
    """

    def __init__(
        self, roll: RollCall, clients: Clients, may_run: Callable[[KnownAgent], Awaitable[bool]]
    ) -> None:
        self._roll = roll
        self._clients = clients
        self._may_run = may_run
        self._found: dict[PeerId, tuple[float, GrpcAgent]] = {}
        self._looked_at = -FRESH_SECONDS

    async def agents(self) -> AsyncGenerator[Agent, None]:
        """What was found a moment ago at once, then everybody else who answers."""
        given: set[PeerId] = set()
        for peer, (at, agent) in list(self._found.items()):
            if _is_fresh(at):
                given.add(peer)
                yield agent
        if _is_fresh(self._looked_at):
            return
        async with aclosing(self._roll.gather(GATHER_SECONDS)) as gathered:
            async for known in gathered:
                agent = self._note(known) if await self._may_run(known) else None
                if agent is not None and known.card.peer_id not in given:
                    given.add(known.card.peer_id)
                    yield agent
        self._looked_at = time.monotonic()

    async def find(self, peer_id: PeerId) -> Agent | None:
        """The agent; looked for again if it was not found a moment ago."""
        at, agent = self._found.get(peer_id, (-FRESH_SECONDS, None))
        if agent is not None and _is_fresh(at):
            return agent
        gathered = self._roll.gather(
            FIND_SECONDS, need=lambda found: any(one.card.peer_id == peer_id for one in found)
        )
        async with aclosing(gathered):
            async for known in gathered:
                self._note(known)
        return self._found.get(peer_id, (at, agent))[1]

    def _note(self, known: KnownAgent) -> GrpcAgent | None:
        if known.state == "gone" or not (known.local or known.addresses):
            return None
        agent = self._clients.of(known)
        self._found[known.card.peer_id] = (time.monotonic(), agent)
        return agent


def _is_fresh(at: float) -> bool:
    return time.monotonic() - at < FRESH_SECONDS
