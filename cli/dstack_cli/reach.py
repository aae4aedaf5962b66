"""The agents that a command can talk to, and what they know, put together.

`reaching` opens everything a command needs to speak to the mesh and closes it again. A private
agent of this home is started where the command needs one.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeVar

from dstack_cli import embedded
from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import open_roll_call
from dstack_mesh.wire.transfer import TransferClient
from dstack_scheduler.agent_port import Agent, Listing
from dstack_scheduler.wire.directory import Clients, CommandDirectory

FRESH_SECONDS = 5.0
"""How long a command believes who is there."""

LIST_SECONDS = 1.5
"""An agent that does not list its runs within this is left out."""

T = TypeVar("T")

# What only listings need is imported where they are made: a run that starts does not wait for it.
if TYPE_CHECKING:
    from dstack_cli.picture import RunPicture
    from dstack_cli.searching import Patience


class Private(Enum):
    """When a private agent of this home is started."""

    ALWAYS = auto()
    IF_ALONE = auto()
    """Only outside a mesh."""
    IF_HISTORY = auto()
    """Only if something ran in this home before."""
    NEVER = auto()


def carry_out(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work to its end."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    return asyncio.run(work)


class Reach:
    """Agents within reach of this home; implements `agent_port.Directory`. For one event loop."""

    def __init__(self, home: Home, channels: Channels, store: ChunkStore) -> None:
        self.home = home
        self.store = store
        self._channels = channels
        self._roll = open_roll_call(home, channels, os.environ)
        self._clients = Clients(channels, store, home.agent_socket)
        self._directory = CommandDirectory(self._roll, self._clients)
        self._met: dict[PeerId, PeerCard] = {}
        self._local: PeerId | None = None
        self._listing: tuple[float, Sequence[Agent]] = (float("-inf"), ())

    async def agents(self) -> AsyncGenerator[Agent, None]:
        """Agents as they answer."""
        async with aclosing(self._directory.agents()) as found:
            async for agent in found:
                self._meet(agent)
                yield agent

    async def find(self, peer_id: PeerId) -> Agent | None:
        """The agent where it is now; None while nobody knows it.

        The agent of this home is started again if it is away: its jobs go on without it.
        """
        if peer_id == self._local and not embedded.answers(self.home):
            await asyncio.to_thread(embedded.ensure, self.home)
        agent = await self._directory.find(peer_id)
        if agent is not None:
            self._meet(agent)
        return agent

    async def known(self, patience: "Patience | None" = None) -> tuple[KnownAgent, ...]:
        """Everybody there is; remembered agents that do not answer are among them."""
        from dstack_cli.searching import EVERYBODY, search

        return await search(self._roll, patience or EVERYBODY)

    async def answering(self) -> Sequence[Agent]:
        """Agents that answer; believed for a few seconds."""
        from dstack_cli.searching import LISTING

        looked_at, found = self._listing
        if time.monotonic() - looked_at > FRESH_SECONDS:
            found = [
                self._clients.of(one)
                for one in await self.known(LISTING)
                if one.answer is not None and (one.local or one.addresses)
            ]
            for agent in found:
                self._meet(agent)
            self._listing = (time.monotonic(), found)
        return found

    async def listings(self, runs: Sequence[str] = ()) -> list[tuple[PeerId, Listing]]:
        """What each agent that answers knows of runs and tags."""
        asked = [_listed(agent, runs) for agent in await self.answering()]
        return [answer for answer in await asyncio.gather(*asked) if answer is not None]

    async def runs(self) -> "list[RunPicture]":
        """All runs that anybody who answers knows, and those that this home submitted."""
        from dstack_cli.picture import put_together
        from dstack_cli.remembered import recall

        return put_together(await self.listings(), recall(self.home))

    async def again(self, picture: "RunPicture") -> "RunPicture":
        """A run as it is now."""
        from dstack_cli.picture import put_together
        from dstack_cli.remembered import recall

        run_id = picture.record.run_id
        found = put_together(await self.listings([run_id]), recall(self.home))
        return next((one for one in found if one.record.run_id == run_id), picture)

    async def transfer(self, peer_id: PeerId) -> TransferClient | None:
        """Moves bytes from an agent; None if it does not answer."""
        from dstack_cli.searching import LISTING

        for known in await self.known(LISTING):
            if known.card.peer_id == peer_id and known.answer is not None:
                channel = (
                    self._channels.to_local(self.home.agent_socket)
                    if known.local
                    else self._channels.to_peer(peer_id, known.addresses[0])
                )
                return TransferClient(channel, self.store, known.card.name)
        return None

    def names(self) -> dict[PeerId, str]:
        """What agents are called, as far as they were met."""
        return {peer_id: card.name for peer_id, card in self._met.items()}

    def _meet(self, agent: Agent) -> None:
        self._met[agent.card.peer_id] = agent.card
        if agent.local:
            self._local = agent.card.peer_id


async def _listed(agent: Agent, runs: Sequence[str]) -> tuple[PeerId, Listing] | None:
    try:
        async with asyncio.timeout(LIST_SECONDS):
            return agent.card.peer_id, await agent.list_runs(runs)
    except (MeshError, TimeoutError):
        return None


@asynccontextmanager
async def reaching(
    home: Home, private: Private, starting: embedded.Starting | None = None
) -> AsyncGenerator[Reach]:
    """Everything a command needs to talk to agents; closed at the end of the block.

    Args:
        starting: A private agent that is on its way already.
    """
    starting = starting or _start_if_wanted(home, private)
    home.prepare()
    channels = Channels(home)
    store = ChunkStore(home.chunks)
    try:
        if starting is not None:
            await asyncio.to_thread(embedded.wait_until_ready, home, starting)
        yield Reach(home, channels, store)
    finally:
        await channels.close()
        store.close()


def chosen_run(text: str, pictures: "Sequence[RunPicture]") -> "RunPicture":
    """The run that a person means. Raises Missing or Misused."""
    from dstack_cli.names import Named, find

    named = [Named(one.record.run_name, one.record.run_id) for one in pictures]
    chosen = find(text, named, "run")
    return next(one for one in pictures if one.record.run_id == chosen.id)


def _start_if_wanted(home: Home, private: Private) -> embedded.Starting | None:
    wanted = (
        private is Private.ALWAYS
        or (private is Private.IF_ALONE and Membership.load(home) is None)
        or (private is Private.IF_HISTORY and embedded.ran_before(home))
    )
    return embedded.start(home) if wanted and not embedded.answers(home) else None
