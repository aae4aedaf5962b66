"""Calls the roll: greets agents that were heard of and tells who answered.

A daemon runs it for ever (`run`); a command asks once (`gather`). What to do is decided by
`membership.view`; here it is done. A warm command never imports zeroconf: agents are searched by
multicast only if that is asked for, or if nobody of those remembered answers.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from random import Random
from typing import assert_never

from dstack_mesh.card import PeerCard, PeerHint
from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.discovery.saved import SavedPeer, load_saved, remember
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.gathering import Gathering
from dstack_mesh.membership.greeter import Greeter, Sources
from dstack_mesh.membership.known import KnownAgent, Target
from dstack_mesh.membership.view import (
    Answered,
    Dial,
    Event,
    Failed,
    Forget,
    Heard,
    Tick,
    View,
)
from dstack_mesh.trust.membership import Membership

log = logging.getLogger(__name__)

HELLO_SECONDS = 2.0
"""How long a daemon waits for an answer to Hello."""

MOST_EVENTS = 1024
"""Events that wait for the view; hints beyond that are dropped and come again."""

QUIET_SECONDS = 0.4
"""A command that found its first agents by multicast waits this long for another one."""

MOST_HINTS = 64
"""Agents that one Hello tells another agent of."""

SAVE_SECONDS = 5.0
"""How often what was reached is written down, if it changed."""


class RollCall:
    """The agents of this home's mesh, and the agent of this home.

    Args:
        home: Whose mesh; remembers agents that were reached.
        own: This home's peer id.
        membership: None outside a mesh: then only the home's own agent is looked for.
        greeter: Says Hello.
        sources: Where to look.
        clock: For waiting.
    """

    def __init__(
        self,
        home: Home,
        own: PeerId,
        membership: Membership | None,
        greeter: Greeter,
        sources: Sources,
        clock: Clock | None = None,
    ) -> None:
        self._home = home
        self._own = own
        self._membership = membership
        self._greeter = greeter
        self._sources = sources
        self._clock = clock or SystemClock()
        self._events: asyncio.Queue[Event] = asyncio.Queue(MOST_EVENTS)
        self._view = View(own, Random())
        self._written: frozenset[SavedPeer] = frozenset()
        self.multicast_trouble = ""

    # For a daemon

    async def run(self) -> None:
        """Keeps the view until cancelled."""
        if self._membership is None:
            return
        self._membership.check_valid(self._clock.now())
        async with asyncio.TaskGroup() as tasks:
            if self._sources.mdns:
                tasks.create_task(self._multicast(self._membership))
            tasks.create_task(self._save_again_and_again(self._membership))
            for event in self._first_events(self._membership):
                await self._handle(event, tasks)
            while True:
                await self._handle(await self._next_event(), tasks)

    def heard(self, hint: PeerHint) -> None:
        """Takes note of an agent that called us. Never blocks."""
        for address in hint.addresses:
            self._put_hint(Heard(Target(address, hint.peer_id), "peer", fresh=True))

    def agents(self) -> tuple[KnownAgent, ...]:
        """Everybody known now, by name."""
        return self._view.agents(self._clock.elapsed())

    def hints(self) -> tuple[PeerHint, ...]:
        """Agents that answer, for telling others."""
        answering = (one for one in self.agents() if one.answer is not None and one.state != "gone")
        return tuple(one.hint for one in answering)[:MOST_HINTS]

    @property
    def foreign(self) -> int:
        """Addresses that turned out to belong to other meshes."""
        return self._view.foreign

    # For a command

    async def gather(
        self,
        within: float,
        need: Callable[[Sequence[KnownAgent]], bool] | None = None,
        browse: bool = False,
    ) -> AsyncGenerator[KnownAgent]:
        """Agents as they answer; remembered ones that do not answer come last, as "gone".

        Stop early by breaking out of the loop. The home's own agent is among them.

        Args:
            within: Seconds until it ends, whoever has not answered.
            need: Ends it as soon as this holds of those found.
            browse: Search by multicast for all that time. Otherwise that is done only if nobody
                answers, and until nothing new is heard.

        Raises:
            Refused: This home's certificate is not valid now.
        """
        if self._membership is not None:
            self._membership.check_valid(self._clock.now())
        gathering = Gathering(self._greeter, self._own)
        async with asyncio.TaskGroup() as tasks:
            search = tasks.create_task(self._search(gathering, within, browse))
            found: list[KnownAgent] = []
            try:
                while (agent := await gathering.results.get()) is not None:
                    found.append(agent)
                    yield agent
                    if need is not None and need(found):
                        break
            except GeneratorExit:
                # Passed on, it would leave the TaskGroup as a group of errors.
                pass
            search.cancel()

    async def collect(self, within: float, browse: bool = False) -> tuple[KnownAgent, ...]:
        """Everybody that `gather` finds, by name."""
        found = [agent async for agent in self.gather(within, browse=browse)]
        return tuple(sorted(found, key=lambda agent: (agent.card.name, agent.card.peer_id)))

    async def _search(self, gathering: Gathering, within: float, browse: bool) -> None:
        try:
            async with asyncio.timeout(within):
                await self._search_everywhere(gathering, within, browse)
        except TimeoutError:
            pass
        finally:
            self._remember(gathering.answered)
        gathering.finish()

    async def _search_everywhere(self, gathering: Gathering, within: float, browse: bool) -> None:
        membership, multicast = self._membership, self._sources.mdns
        async with asyncio.TaskGroup() as tasks:
            gathering.start(tasks, within)
            if self._home.agent_socket.exists():
                socket = Address(f"unix:{self._home.agent_socket}")
                gathering.ask(Heard(Target(socket), "local"))
            if membership is None:
                return
            for event in self._first_events(membership):
                gathering.ask(event)
            if browse and multicast:
                tasks.create_task(self._multicast(membership, gathering.ask))
        if multicast and not browse and gathering.lonely:
            async with asyncio.TaskGroup() as tasks:
                gathering.start(tasks, within)
                browsing = tasks.create_task(self._multicast(membership, gathering.ask))
                await gathering.until_quiet(QUIET_SECONDS)
                browsing.cancel()

    # Both

    def _first_events(self, membership: Membership) -> list[Heard]:
        saved = load_saved(self._home.saved_peers, membership.mesh_id)
        remembered = [
            Heard(Target(address, one.peer_id), "saved", _card_of(one, membership))
            for one in saved
            for address in one.addresses
        ]
        given = [Heard(Target(seed), "seed") for seed in self._sources.seeds]
        invited = [Heard(Target(seed), "saved") for seed in membership.seeds]
        return given + remembered + ([] if remembered else invited)

    async def _multicast(
        self, membership: Membership, ask: Callable[[Heard], None] | None = None
    ) -> None:
        # Here, because a command that remembers its agents never needs it.
        from dstack_mesh.discovery import mdns

        put = ask or self._put_hint

        def sighted(sighting: mdns.Sighting) -> None:
            if sighting.of_mesh(membership.discovery_key):
                for address in sighting.addresses:
                    put(Heard(Target(address), "mdns", fresh=True))

        announcement = None
        if self._sources.port is not None:
            key = membership.discovery_key
            announcement = mdns.Announcement.of_agent(key, self._sources.port)
        await mdns.Multicast(announcement, sighted, self._note_trouble).run()

    def _note_trouble(self, sentence: str) -> None:
        self.multicast_trouble = sentence
        log.warning("%s", sentence)

    def _put_hint(self, event: Heard) -> None:
        if not self._events.full():
            self._events.put_nowait(event)

    async def _handle(self, event: Event, tasks: asyncio.TaskGroup) -> None:
        for effect in self._view.handle(event, self._clock.elapsed()):
            match effect:
                case Dial(target):
                    tasks.create_task(self._greet(target))
                case Forget(targets):
                    for target in targets:
                        await self._greeter.forget(target)
                case _:
                    assert_never(effect)

    async def _next_event(self) -> Event:
        wait = self._view.next_due() - self._clock.elapsed()
        try:
            async with asyncio.timeout(None if wait == float("inf") else max(wait, 0.0)):
                return await self._events.get()
        except TimeoutError:
            return Tick()

    async def _greet(self, target: Target) -> None:
        try:
            answer = await self._greeter.hello(target, self.hints(), HELLO_SECONDS)
        except MeshError as failed:
            log.debug("%s did not answer: %s", target, failed)
            foreign = isinstance(failed, Refused) or failed.code == "not-that-peer"
            await self._events.put(Failed(target, foreign))
        else:
            await self._events.put(Answered(target, answer))

    async def _save_again_and_again(self, membership: Membership) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            answering = [one for one in self.agents() if one.answer and one.state != "gone"]
            reached = frozenset(map(_saved_of, answering))
            if reached != self._written:
                path, mesh_id = self._home.saved_peers, membership.mesh_id
                try:
                    await asyncio.to_thread(remember, path, mesh_id, reached)
                    self._written = reached
                except OSError as failed:
                    log.warning("peers cannot be written down: %s", failed)

    def _remember(self, answered: Sequence[KnownAgent]) -> None:
        reached = [_saved_of(agent) for agent in answered if not agent.local]
        if self._membership is not None and reached:
            try:
                remember(self._home.saved_peers, self._membership.mesh_id, reached)
            except OSError as failed:
                log.warning("peers cannot be written down: %s", failed)


def _saved_of(agent: KnownAgent) -> SavedPeer:
    return SavedPeer(agent.card.peer_id, agent.card.name, agent.addresses)


def _card_of(saved: SavedPeer, membership: Membership) -> PeerCard:
    return PeerCard(
        saved.peer_id, membership.mesh_id, saved.name, saved.addresses, version="", agent=True
    )
