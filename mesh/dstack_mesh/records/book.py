"""The records that a peer holds: in memory for reading, on disk to survive, its own ones to write.

What we write is on disk, synced, before anybody hears of it. What others wrote is checked in a
thread, then taken over; it can be lost with the power and is then heard again.

The stream of a writer whom we believe no more is set aside at once: nobody brings more of it and it
is passed on to nobody; it is read only for what was over by then.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from random import SystemRandom

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Busy, Invalid
from dstack_mesh.ids import PeerId
from dstack_mesh.records.checking import check_delta
from dstack_mesh.records.hybrid import Hybrid
from dstack_mesh.records.pen import Pen, next_incarnation
from dstack_mesh.records.record import Delta, Entry, Head, Name, Record, Version
from dstack_mesh.records.replica import BOUNDS, Bounds, Outcome, Replica, retired
from dstack_mesh.records.store import RecordStore
from dstack_mesh.records.stream import Stream
from dstack_mesh.signing import Signer

log = logging.getLogger(__name__)

MOST_SET_ASIDE = 64
"""Streams that are set aside; those that are silent the longest are forgotten."""

MOST_HELD_BACK = 1024
"""Writers who were not believed yet and are asked for again once they are."""

Listener = Callable[[PeerId, Version, PeerId | None], None]
"""Told when a stream changed: its writer, the version before, and who brought it."""


class RecordBook:
    """Implements `port.Book`. For one event loop.

    Args:
        store: Loaded by `open`.
        signer: Our own key.
        may_write: Who is believed, beside ourselves; what others wrote is dropped where it comes
            in. Call `reconsider` when it changes.
    """

    def __init__(
        self,
        store: RecordStore,
        signer: Signer,
        clock: Clock,
        may_write: Callable[[PeerId], bool] = lambda _: True,
        bounds: Bounds = BOUNDS,
    ) -> None:
        self._store = store
        self._pen = Pen(signer, 0)
        self._clock = clock
        self._may_write = may_write
        self._replica = Replica(bounds, own=signer.peer_id)
        self._past: dict[PeerId, Stream] = {}
        self._held_back: set[PeerId] = set()
        self._refused: set[PeerId] = set()
        self._time = Hybrid()
        self._writing = asyncio.Lock()
        self._checking = asyncio.Semaphore(1)
        self._listeners: list[Listener] = []

    async def open(self) -> None:
        """Loads what was kept, and begins a new incarnation. Before anything else."""
        streams, damaged = await asyncio.to_thread(self._store.load)
        old = [one.writer for one in streams if not self._loaded(one)]
        gone = [*damaged, *old, *self._forget()]
        if gone:
            log.warning("records of %s are not kept any more", ", ".join(gone))
            await self._store.drop(gone)
        await self._begin(self._store.incarnation())

    def _loaded(self, stream: Stream) -> bool:
        """Whether a stream that was kept counts and has room; otherwise it is heard again."""
        self._time = self._time.hearing(stream.head.at, self._now_ms())
        if not self._believes(stream.writer):
            self._past[stream.writer] = stream
            return True
        try:
            if not retired(stream.head, self._now_ms()):
                self._replica.put(stream)
                return True
        except Busy as full:
            log.warning("%s", full)
        return False

    async def _begin(self, last: int) -> None:
        own = self._replica.version(self.writer).incarnation
        number = next_incarnation(max(last, own), self._now_ms(), SystemRandom().getrandbits(64))
        await self._store.take_incarnation(number)
        self._pen = replace(self._pen, incarnation=number)

    @property
    def writer(self) -> PeerId:
        """Who we are."""
        return self._pen.writer

    @property
    def streams(self) -> Mapping[PeerId, Stream]:
        """What is held of writers who are believed."""
        return self._replica.streams

    @property
    def past(self) -> Mapping[PeerId, Stream]:
        """What was held of writers when they began not to be believed."""
        return self._past

    def reconsider(self) -> frozenset[PeerId]:
        """Has who may write now take effect; whose records may be asked for again."""
        for writer in [one for one in self._replica.streams if not self._believes(one)]:
            self._past[writer] = self._replica.streams[writer]
            self._replica.drop(writer)
        for writer in [one for one in self._past if self._believes(one)]:
            with suppress(Busy):  # it is asked for again when there is room
                self._replica.put(self._past.pop(writer))
        self._forget()
        again = frozenset(filter(self._believes, self._held_back))
        self._held_back -= again
        return again

    def _forget(self) -> list[PeerId]:
        """Lets go of what is set aside and old, or too much; whose that was."""
        by_age = sorted(self._past.values(), key=lambda one: one.head.at)
        over, now_ms = len(by_age) - MOST_SET_ASIDE, self._now_ms()
        forgotten = [
            one.writer
            for place, one in enumerate(by_age)
            if place < over or retired(one.head, now_ms)
        ]
        for writer in forgotten:
            del self._past[writer]
        return forgotten

    def _believes(self, writer: PeerId) -> bool:
        return writer == self.writer or self._may_write(writer)

    def listen(self, listener: Listener) -> None:
        """Calls it after each change from now on."""
        self._listeners.append(listener)

    def own(self, kind: str) -> Iterator[Record]:
        """Our own records of a kind that count."""
        stream = self._replica.streams.get(self.writer)
        return iter(()) if stream is None else shown(stream, kind, self._now_ms())

    def has_own(self, kind: str, key: str) -> bool:
        """Whether we have something to say about this."""
        stream = self._replica.streams.get(self.writer)
        return stream is not None and (kind, key) in stream.records

    async def write(self, entries: Sequence[Entry]) -> None:
        """Publishes what we have to say; on disk on return. Raises Busy, Invalid."""
        async with self._writing:
            await self._write(entries)

    async def _write(self, entries: Sequence[Entry]) -> None:
        now_ms = self._now_ms()
        held = self._replica.streams.get(self.writer)
        self._time = self._time.next(now_ms)
        # Many signatures take a while, a few are faster than a thread.
        write = self._pen.write
        stream = (
            write(held, entries, self._time, now_ms)
            if len(entries) < 8
            else await asyncio.to_thread(write, held, entries, self._time, now_ms)
        )
        self._replica.check_size(stream)  # before it is on disk: others could not take it
        await self._store.save(held, stream, durable=True)
        self._replica.put(stream)
        self._tell(stream.writer, held, None)

    # As `port.Book`

    def wants(self, head: Head) -> bool:
        if not self._believes(head.writer):
            if len(self._held_back) < MOST_HELD_BACK:
                self._held_back.add(head.writer)
            return False
        return head.version > self._replica.version(head.writer)

    def versions(self) -> Mapping[PeerId, Version]:
        return self._replica.versions()

    def lacking(self, known: Mapping[PeerId, Version]) -> Iterable[Delta]:
        return self._replica.lacking(known)

    def since(self, writer: PeerId, version: Version) -> Delta | None:
        """What a peer lacks of one stream; None if nothing is held of it."""
        stream = self._replica.streams.get(writer)
        return stream.since(version) if stream is not None else None

    async def take(self, delta: Delta, source: PeerId | None) -> Outcome:
        if not self.wants(delta.head):
            return Outcome.KNOWN
        held = self._replica.streams.get(delta.writer)
        async with self._checking:
            fresh, same = parted(held, delta)
            await asyncio.to_thread(check_delta, replace(delta, records=fresh))
        if delta.writer == self.writer:
            await self._go_beyond(delta.head)
            return Outcome.KNOWN
        if not self._believes(delta.writer):
            return Outcome.KNOWN
        # Others may have brought it meanwhile.
        held = self._replica.streams.get(delta.writer)
        outcome = self._merged(replace(delta, records=(*fresh, *same)))
        if outcome is Outcome.TAKEN:
            self._time = self._time.hearing(delta.head.at, self._now_ms())
            await self._keep(held, self._replica.streams[delta.writer])
            self._tell(delta.writer, held, source)
        return outcome

    def _merged(self, delta: Delta) -> Outcome:
        """What it came to; a stream that cannot be taken is told of once."""
        try:
            outcome = self._replica.merge(delta, self._now_ms())
        except (Busy, Invalid) as refused:
            if delta.writer not in self._refused:
                log.warning("records of %s are not taken: %s", delta.writer, refused)
            self._refused.add(delta.writer)
            return Outcome.REFUSED
        if outcome is Outcome.TAKEN:
            self._refused.discard(delta.writer)
        return outcome

    async def _go_beyond(self, heard: Head) -> None:
        """Our own words come back that we do not have: the disk was put back to an earlier state,
        or somebody runs on a copy of it. What we know now counts from here."""
        async with self._writing:
            if heard.version <= self._replica.version(self.writer):
                return
            log.warning(
                "records of this agent came back that it did not write: its disk was restored, or"
                " a copy of its home runs elsewhere (each machine needs a home of its own)"
            )
            try:
                await self._begin(heard.incarnation)
                await self._write(())
            except sqlite3.Error as error:  # it comes back with the next exchange
                log.warning("the records of this agent are not on disk: %s", error)

    async def _keep(self, held: Stream | None, stream: Stream) -> None:
        try:
            await self._store.save(held, stream, durable=False)
        except sqlite3.Error as error:  # heard again after the next start
            log.warning("records of %s are not on disk: %s", stream.writer, error)

    def _tell(self, writer: PeerId, held: Stream | None, source: PeerId | None) -> None:
        base = held.version if held is not None else Version()
        for listener in self._listeners:
            listener(writer, base, source)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def shown(stream: Stream, kind: str, now_ms: int) -> Iterator[Record]:
    """Records of a kind that are neither taken back nor expired."""
    return (
        record
        for record in stream.records.values()
        if record.entry.kind == kind and not record.hidden(now_ms)
    )


def parted(held: Stream | None, delta: Delta) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Records that must be checked, and those that we hold already, as we hold them."""
    records: Mapping[Name, Record] = held.records if held is not None else {}
    fresh: list[Record] = []
    same: list[Record] = []
    for record in delta.records:
        ours = records.get(record.entry.name)
        if ours is not None and ours.leaf == record.leaf:
            same.append(ours)
        else:
            fresh.append(record)
    return tuple(fresh), tuple(same)
