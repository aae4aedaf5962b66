"""The other agents as this agent reaches them: for drivers, and for inputs that lie elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, Digest, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.transfer import TransferClient
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.wire.agent import GrpcAgent


@frozen
class Peers:
    """Implements `agent_port.Directory` over what the roll call knows.

    Attributes:
        card: Who we are: the first agent of the directory, reached by our own socket.
        known: The agents that the roll call knows now.
        behalf: For whom we ask.
        may_run: Whether work may be given to one of them.
        called: What the mesh's roster calls a member; empty if it does not speak of it.
    """

    home: Home
    channels: Channels
    store: ChunkStore
    card: Callable[[], PeerCard]
    known: Callable[[], Sequence[KnownAgent]]
    behalf: Asker = OWNER
    may_run: Callable[[KnownAgent], bool] = lambda agent: True
    called: Callable[[PeerId], str] = lambda peer_id: ""

    async def agents(self) -> AsyncGenerator[Agent, None]:
        """Ourselves, then everybody who may answer.

        Also who is gone: a driver that nobody answers is cut off, and its job waits for them.
        """
        yield self._ourselves()
        for known in self.known():
            there = not known.local and known.state != "left" and known.addresses
            if there and self.may_run(known):
                yield self._agent(known)

    async def find(self, peer_id: PeerId) -> Agent | None:
        """The agent at the address it has now; None while it is not known."""
        if peer_id == self.card().peer_id:
            return self._ourselves()
        for known in self.known():
            if known.card.peer_id == peer_id and known.addresses:
                return self._agent(known)
        return None

    def addresses(self, peer_id: PeerId) -> Sequence[Address]:
        """Where a peer was seen lately."""
        found = (known for known in self.known() if known.card.peer_id == peer_id)
        return next((known.addresses for known in found), ())

    def name(self, peer_id: PeerId) -> str:
        """What people call a peer; the beginning of its id for one of whom nobody spoke."""
        found = (known.card.name for known in self.known() if known.card.peer_id == peer_id)
        return next(found, self.called(peer_id) or peer_id[:8])

    async def fetch(self, peer_id: PeerId, address: Address, digest: Digest) -> int:
        """Brings a tree from a peer into our store; how many bytes came. Raises MeshError."""
        channel = self.channels.to_peer(peer_id, address)
        return await TransferClient(channel, self.store, address).fetch_tree(digest)

    async def here(self, digest: Digest) -> bool:
        """Whether all bytes of a tree are in our store."""
        return await asyncio.to_thread(self._is_here, digest)

    def _is_here(self, digest: Digest) -> bool:
        if self.store.missing_manifest(digest):
            return False
        return not self.store.missing(self.store.get_manifest(digest).chunk_digests())

    def _ourselves(self) -> GrpcAgent:
        channel = self.channels.to_local(self.home.agent_socket)
        return GrpcAgent(channel, self.card(), True, self.store, self.behalf)

    def _agent(self, known: KnownAgent) -> GrpcAgent:
        channel = self.channels.to_peer(known.card.peer_id, known.addresses[0])
        return GrpcAgent(channel, known.card, False, self.store, self.behalf)
