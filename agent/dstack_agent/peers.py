"""The other agents as this agent reaches them: for drivers, and for inputs that lie elsewhere."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress

from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, Digest, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.copies import has_tree, lacking_trees
from dstack_mesh.wire.swarm import Giver, bring_tree
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.job import Source
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

    async def bring(
        self, digest: Digest, sources: Sequence[Source], most_bytes: float = math.inf
    ) -> int:
        """Brings a tree into our store from all who have it and from others who bring it too.

        Returns:
            How many bytes came.

        Raises:
            Unreachable: Nobody gives it; says what was answered at each address.
            Refused: More than `most_bytes` are lacking here.
        """
        silent: list[str] = []
        others = [one for one in sources if one.peer_id != self.card().peer_id]
        asking = (self._giver(one, digest, silent) for one in others)
        givers = [one for one in await asyncio.gather(*asking) if one is not None]
        if not givers:
            raise Unreachable("Nobody gives these files.", " ".join(silent) or "No one is known.")
        own = self.card().peer_id
        return await bring_tree(digest, self.store, own, givers, self._reached, most_bytes)

    async def has(self, peer_id: PeerId, digest: Digest) -> bool:
        """Whether a peer answers now and has a tree."""
        return await self._giver(Source(peer_id), digest, []) is not None

    async def lacking(self, peer_id: PeerId, digests: Sequence[Digest]) -> frozenset[Digest]:
        """Trees that a peer says it has not. Raises Unreachable if it does not answer."""
        for address in self.addresses(peer_id):
            with suppress(MeshError):
                channel = self.channels.to_peer(peer_id, address)
                return await lacking_trees(channel, digests, self.name(peer_id))
        raise Unreachable(f"{self.name(peer_id)} cannot be reached.")

    async def _giver(self, source: Source, digest: Digest, silent: list[str]) -> Giver | None:
        """A source at the first of its addresses that answers, if it has the tree."""
        for address in dict.fromkeys([*source.addresses, *self.addresses(source.peer_id)]):
            try:
                channel = self.channels.to_peer(source.peer_id, address)
                if await has_tree(channel, digest, address):
                    return Giver(source.peer_id, self.name(source.peer_id), channel)
                silent.append(f"{address}: It has them not.")
                return None
            except MeshError as error:
                silent.append(f"{address}: {error}")
        return None

    def _reached(self, peers: Iterable[PeerId]) -> list[Giver]:
        """Those of some peers that answered lately."""
        found: list[Giver] = []
        for peer in peers:
            for address in self.addresses(peer)[:1]:
                with suppress(MeshError):
                    channel = self.channels.to_peer(peer, address)
                    found.append(Giver(peer, self.name(peer), channel))
        return found

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
