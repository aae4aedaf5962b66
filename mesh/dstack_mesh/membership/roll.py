"""Calls the roll: greets agents that were heard of and tells who answered.

A daemon runs it for ever (`run`); a command asks once (`gather`). Whom to greet is decided by
`membership.view`; here it is done. In a daemon, who answered is handed to `membership.vigil`, which
keeps watch over it from then on. A warm command never imports zeroconf: agents are searched by
multicast only if nobody of those remembered answers soon.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, assert_never

from dstack_mesh.card import HelloAnswer, PeerCard, PeerHint
from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.discovery.saved import SavedPeer, load_saved, remember
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.membership.gathering import Gathering
from dstack_mesh.membership.greeter import Greeter, Sources
from dstack_mesh.membership.known import Change, KnownAgent, Target
from dstack_mesh.membership.place import Policy
from dstack_mesh.membership.view import (
    Answered,
    Dial,
    Doubted,
    Dropped,
    Event,
    Failed,
    Forget,
    Heard,
    Tick,
    View,
)
from dstack_mesh.trust.membership import Membership

if TYPE_CHECKING:
    # A command has no use for it.
    from dstack_mesh.membership.member import Member
    from dstack_mesh.membership.vigil import Vigil

log = logging.getLogger(__name__)

HELLO_SECONDS = 2.0
"""How long a daemon waits for an answer to Hello."""

MOST_EVENTS = 1024
"""Events that wait for the view; hints beyond that are dropped and come again."""

SILENT_SECONDS = 0.3
"""A command whose known agents say nothing for so long searches by multicast besides."""

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
        vigil: Keeps watch over agents that answered; None for a command.

    Attributes:
        multicast_trouble: Why multicast does not work, for people; empty if it does.
        refusal: Why the agents that a command met do not speak to it; None if one did not say.
    """

    def __init__(
        self,
        home: Home,
        own: PeerId,
        membership: Membership | None,
        greeter: Greeter,
        sources: Sources,
        clock: Clock | None = None,
        vigil: "Vigil | None" = None,
    ) -> None:
        self._home = home
        self._own = own
        self._membership = membership
        self._greeter = greeter
        self._sources = sources
        self._clock = clock or SystemClock()
        self._events: asyncio.Queue[Event] = asyncio.Queue(MOST_EVENTS)
        self._view = View(own, Random(), Policy(interval=float("inf")))
        self._vigil = vigil
        if vigil is not None:
            vigil.listen(self._stood_otherwise)
        self._written: frozenset[SavedPeer] = frozenset()
        self.multicast_trouble = ""
        self.refusal: MeshError | None = None

    # For a daemon

    async def run(self) -> None:
        """Keeps the view until cancelled."""
        if self._membership is None:
            return
        self._membership.check_valid(self._clock.now())
        async with asyncio.TaskGroup() as tasks:
            if self._sources.mdns:
                tasks.create_task(self._multicast(self._membership))
            if self._vigil is not None:
                tasks.create_task(self._vigil.run())
            tasks.create_task(self._save_again_and_again(self._membership))
            for event in self._first_events(self._membership):
                await self._handle(event, tasks)
            while True:
                await self._handle(await self._next_event(), tasks)

    def heard(self, hint: PeerHint) -> None:
        """Takes note of an agent that called us. Never blocks."""
        member = self._vigil.member(hint.peer_id) if self._vigil else None
        if member is not None and member.living:
            return
        for address in hint.addresses:
            self._put_hint(Heard(Target(address, hint.peer_id), "peer", fresh=True))

    def agents(self) -> tuple[KnownAgent, ...]:
        """Everybody known now, by name."""
        found = {one.card.peer_id: one for one in self._view.agents(self._clock.elapsed())}
        if self._vigil is not None:
            for member in self._vigil.members:
                found[member.peer_id] = self._known(self._vigil, member, found.get(member.peer_id))
        return tuple(sorted(found.values(), key=lambda one: (one.card.name, one.card.peer_id)))

    def hints(self) -> tuple[PeerHint, ...]:
        """Agents that answer, for telling others."""
        answering = [one.hint for one in self.agents() if one.state not in ("gone", "left")]
        reachable = [hint for hint in answering if hint.addresses]
        return tuple(Random().sample(reachable, min(len(reachable), MOST_HINTS)))

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Calls it for every agent that stands otherwise than before; it must not block."""
        if self._vigil is not None:
            self._vigil.listen(listener)

    async def leave(self) -> None:
        """Says to others that we go. Call it while `run` still runs, before the server stops."""
        if self._vigil is not None:
            await self._vigil.leave()

    # For a command

    async def gather(
        self,
        within: float,
        need: Callable[[Sequence[KnownAgent]], bool] | None = None,
    ) -> AsyncGenerator[KnownAgent]:
        """Agents as they answer; remembered ones that do not answer come last, as "gone".

        Stop early by breaking out of the loop. The home's own agent is among them. Multicast is
        searched if nobody known answers soon, and until nothing new is heard.

        Args:
            within: Seconds until it ends, whoever has not answered.
            need: Ends it as soon as this holds of those found.

        Raises:
            Refused: This home's certificate is not valid now.
        """
        if self._membership is not None:
            self._membership.check_valid(self._clock.now())
        gathering = Gathering(self._greeter, self._own)
        async with asyncio.TaskGroup() as tasks:
            search = tasks.create_task(self._search(gathering, within))
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

    async def _search(self, gathering: Gathering, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                await self._search_everywhere(gathering, within)
        except TimeoutError:
            pass
        finally:
            self.refusal = gathering.refusal
            self._remember(gathering.answered)
        gathering.finish()

    async def _search_everywhere(self, gathering: Gathering, within: float) -> None:
        membership = self._membership
        async with asyncio.TaskGroup() as greetings:
            gathering.start(greetings, within)
            if self._home.agent_socket.exists():
                socket = Address(f"unix:{self._home.agent_socket}")
                gathering.ask(Heard(Target(socket), "local"))
            if membership is None:
                return
            for event in self._first_events(membership):
                gathering.ask(event)
            await gathering.until_settled(SILENT_SECONDS)
            if self._sources.mdns and gathering.lonely:
                # In a group of its own, which ends first: later nobody can be asked any more.
                async with asyncio.TaskGroup() as listening:
                    browsing = listening.create_task(self._multicast(membership, gathering.ask))
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

        put, mesh = ask or self._put_hint, membership.discovery_key

        def sighted(sighting: mdns.Sighting) -> None:
            if sighting.of_mesh(mesh):
                for address in sighting.addresses:
                    put(Heard(Target(address), "mdns", fresh=True))

        announcement = None
        if self._sources.port is not None:
            announcement = mdns.Announcement.of_agent(mesh, self._sources.port)
        await mdns.Multicast(announcement, sighted, self._note_trouble, mesh=mesh).run()

    def _note_trouble(self, sentence: str) -> None:
        self.multicast_trouble = sentence
        log.warning("%s", sentence)

    def _put_hint(self, event: Event) -> None:
        if not self._events.full():
            self._events.put_nowait(event)

    def _known(self, vigil: "Vigil", member: "Member", met: KnownAgent | None) -> KnownAgent:
        addresses, name = vigil.addresses(member), member.name or member.peer_id[:8]
        if met is not None:
            card = replace(met.card, roster=member.roster or met.card.roster)
            where = addresses or met.addresses
            return replace(met, card=card, addresses=where, state=member.standing)
        mesh_id = self._membership.mesh_id if self._membership else MeshId("")
        card = PeerCard(
            member.peer_id, mesh_id, name, addresses, "", agent=True, roster=member.roster
        )
        return KnownAgent(card, addresses, "peer", member.standing, None)

    def _stood_otherwise(self, change: Change) -> None:
        log.info(
            "%s is %s, was %s: %s",
            change.name or change.peer_id[:8],
            change.now or "forgotten",
            change.before or "unknown",
            change.cause,
        )
        if change.now is None:
            self._put_hint(Dropped(change.peer_id))
        elif change.now in ("suspect", "gone", "left"):
            self._put_hint(Doubted(change.peer_id))

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
            answer = await self._greeter.hello(target, HELLO_SECONDS)
        except MeshError as failed:
            log.debug("%s did not answer: %s", target, failed)
            foreign = isinstance(failed, Refused) or failed.code == "not-that-peer"
            await self._events.put(Failed(target, foreign))
        else:
            self._tell_vigil(target, answer)
            await self._events.put(Answered(target, answer))

    def _tell_vigil(self, target: Target, answer: HelloAnswer) -> None:
        card = answer.card
        if self._vigil is None or not card.agent or card.peer_id == self._own:
            return
        if target.peer_id is None:
            self._vigil.sighted(card.peer_id, target.address)
        elif target.peer_id == card.peer_id:
            self._vigil.met(target.address, answer)

    async def _save_again_and_again(self, membership: Membership) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            answering = [one for one in self.agents() if self._was_reached(one)]
            reached = frozenset(map(_saved_of, answering))
            if reached != self._written:
                path, mesh_id = self._home.saved_peers, membership.mesh_id
                try:
                    await asyncio.to_thread(remember, path, mesh_id, reached)
                    self._written = reached
                except OSError as failed:
                    log.warning("peers cannot be written down: %s", failed)

    def _was_reached(self, agent: KnownAgent) -> bool:
        member = self._vigil.member(agent.card.peer_id) if self._vigil else None
        spoke = agent.answer is not None or (member is not None and member.heard_at is not None)
        return spoke and agent.state not in ("gone", "left")

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
