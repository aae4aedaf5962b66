"""Spreads records: carries out what the gossip decides, over channels to other agents."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import assert_never

from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.gossip import (
    Behind,
    Believed,
    Changed,
    Effect,
    Event,
    Exchange,
    Exchanged,
    Gossip,
    Peers,
    Push,
    Pushed,
    Tick,
)
from dstack_mesh.records.port import RecordPeer
from dstack_mesh.records.record import Delta, Version
from dstack_mesh.records.replica import Outcome

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often it is looked who answers."""

PUSH_SECONDS = 5.0
EXCHANGE_SECONDS = 30.0
AWAY_SECONDS = 3.0
"""To one that did not answer lately."""

MOST_EVENTS = 1024
"""Events that wait; what is dropped beyond that comes with the next exchange."""

Dial = Callable[[PeerId, Address], RecordPeer]


class Spreader:
    """Spreads what the book holds; `run` must run.

    Args:
        agents: Who is known now, as the roll call says.
        dial: Makes the client of an agent; nothing is opened by it.
    """

    def __init__(
        self,
        book: RecordBook,
        agents: Callable[[], Sequence[KnownAgent]],
        dial: Dial,
        clock: Clock,
        gossip: Gossip,
    ) -> None:
        self._book = book
        self._agents = agents
        self._dial = dial
        self._clock = clock
        self._gossip = gossip
        self._events: asyncio.Queue[Event] = asyncio.Queue(MOST_EVENTS)
        self._known: Mapping[PeerId, KnownAgent] = {}
        book.listen(self._changed)

    async def run(self) -> None:
        """Spreads until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_again_and_again())
            while True:
                event = await self._next_event()
                for effect in self._gossip.handle(event, self._clock.elapsed()):
                    tasks.create_task(self._carry_out(effect))

    def behind(self, peer: PeerId) -> None:
        """Has us ask a peer that pushed what we could not take."""
        self._put(Behind(peer))

    def believed(self, writers: Collection[PeerId]) -> None:
        """Has us ask for the records of writers who were not believed until now."""
        if writers:
            self._put(Believed(writers))

    def _changed(self, writer: PeerId, base: Version, source: PeerId | None) -> None:
        self._put(Changed(writer, base, source))

    def _put(self, event: Event) -> None:
        if not self._events.full():
            self._events.put_nowait(event)

    async def _next_event(self) -> Event:
        wait = self._gossip.next_due() - self._clock.elapsed()
        try:
            async with asyncio.timeout(None if wait == float("inf") else max(wait, 0.0)):
                return await self._events.get()
        except TimeoutError:
            return Tick()

    async def _look_again_and_again(self) -> None:
        while True:
            known = {
                one.card.peer_id: one
                for one in self._agents()
                if one.addresses and one.card.peer_id != self._book.writer
            }
            if known.keys() != self._known.keys() or _states(known) != _states(self._known):
                live = sorted(p for p, one in known.items() if _answers(one))
                await self._events.put(Peers(live, sorted(known.keys() - set(live))))
            self._known = known
            await asyncio.sleep(LOOK_SECONDS)

    async def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Push():
                await self._push(effect)
            case Exchange(peer):
                try:
                    await self._exchange(peer)
                except (MeshError, OSError) as failed:
                    log.debug("no exchange with %s: %s", peer, failed)
                finally:
                    await self._events.put(Exchanged(peer))
            case _:
                assert_never(effect)

    async def _push(self, effect: Push) -> None:
        news: int | None = None
        found = [self._book.since(writer, base) for writer, base in effect.bases]
        try:
            async with asyncio.timeout(PUSH_SECONDS):
                client = self._client(effect.peer)  # a peer that was revoked is not dialled
                if client is not None:
                    news = (await client.push(d for d in found if d is not None)).news
        except (MeshError, OSError) as failed:
            log.debug("no push to %s: %s", effect.peer, failed)
        writers = [writer for writer, _ in effect.bases]
        await self._events.put(Pushed(effect.peer, writers, news))

    async def _exchange(self, peer: PeerId) -> None:
        """Fetches what we lack and brings what the peer lacks."""
        known = self._known.get(peer)
        client = self._client(peer)
        if client is None or known is None:
            return
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS if _answers(known) else AWAY_SECONDS):
                theirs, unfit = await self._fetch(client, peer, self._book.versions())
                if unfit:  # beginning with nothing, they fit
                    ours = {w: v for w, v in self._book.versions().items() if w not in unfit}
                    await self._fetch(client, peer, ours)
                lacking = list(self._book.lacking(theirs))
                if lacking:
                    await client.push(lacking)
        except TimeoutError:
            log.debug("an exchange with %s was broken off", peer)

    async def _fetch(
        self, client: RecordPeer, peer: PeerId, ours: Mapping[PeerId, Version]
    ) -> tuple[Mapping[PeerId, Version], set[PeerId]]:
        """How far the peer has the streams, and writers of what could not be taken."""
        theirs: dict[PeerId, Version] = {}
        unfit: set[PeerId] = set()
        async with aclosing(client.exchange(ours, self._book)) as coming:
            async for each in coming:
                if not isinstance(each, Delta):
                    theirs.update(each)
                elif await self._book.take(each, peer) is Outcome.UNFIT:
                    unfit.add(each.writer)
        return theirs, unfit

    def _client(self, peer: PeerId) -> RecordPeer | None:
        known = self._known.get(peer)
        return self._dial(peer, known.addresses[0]) if known is not None else None


def _answers(known: KnownAgent) -> bool:
    return known.state in ("alive", "draining", "paused")


def _states(known: Mapping[PeerId, KnownAgent]) -> dict[PeerId, bool]:
    return {peer: _answers(one) for peer, one in known.items()}
