"""Keeps two copies of what jobs kept: carries out what `redundancy` decides for this agent.

It looks every second whether records or members changed, and otherwise does nothing. A copy is
brought from everybody who has it, kept for its run, and only then told to others.
"""

import asyncio
import logging
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import assert_never

from dstack_agent.doubts import Doubts, Lacking
from dstack_agent.hearsay import RUN, Hearsay
from dstack_agent.heirs import orphans
from dstack_agent.holdings import Holdings
from dstack_agent.pulse import ANSWERING
from dstack_agent.redundancy import Copy, Kept, Mate, Presence, Redundancy, kept_of
from dstack_agent.removing import REST_SECONDS
from dstack_mesh.card import HelloAnswer
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.clock import Clock
from dstack_mesh.faults import Busy, MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import Version
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import JobKey, RunRecord, Source
from dstack_scheduler.resolve import merged_runs, merged_tags

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often it is looked whether anything changed."""

ASK_SECONDS = 3600.0
"""How often all are asked whether they have what they are said to have. Shorter: a lost copy is
made again sooner; longer: fewer disks wake for it."""

ORDERED_SECONDS = 10.0
"""What was decided is carried out for so long, then it is decided anew."""

FIRST_SECONDS = 5.0
"""After the start: by then whoever is there has been met."""

MOST_AT_ONCE = 2
"""Copies that are made at the same time."""

AGAIN_SECONDS = 10.0
LONGEST_SECONDS = 300.0
"""Before a copy that failed is tried again: twice as long each time, and at most so long."""

SLEPT_SECONDS = 30.0
"""Between two looks: the machine slept, and heard nothing meanwhile."""

STEP_BYTES = 256 << 20
"""Room counts in steps of this."""


@frozen
class Surroundings:
    """What copying needs of the agent.

    Attributes:
        agents: Who is known, without ourselves.
        may_run: Whether one may hold bytes of others.
        state: Whether the owner lends the machine now.
        room: Bytes that may come from others, by disk, quota and policy; called in a thread.
        lacking: Trees that a peer says it has not. Raises MeshError.
        bring: Fetches a tree of at most so many bytes from those of some peers that have it.
            Raises MeshError.
        inherit: Remembers a run of others, and who told of it.
        has: Whether a peer answers a call now and has a tree.
    """

    agents: Callable[[], Sequence[KnownAgent]]
    may_run: Callable[[KnownAgent], bool]
    state: Callable[[], AgentState]
    room: Callable[[], float]
    lacking: Lacking
    bring: Callable[[Digest, Sequence[Source], int], Awaitable[int]]
    inherit: Callable[[RunRecord, PeerId], Awaitable[None]]
    has: Callable[[PeerId, Digest], Awaitable[bool]]


class Copying:
    """Copies for one agent while `run` runs."""

    def __init__(
        self,
        book: RecordBook,
        hearsay: Hearsay,
        holdings: Holdings,
        store: ChunkStore,
        around: Surroundings,
        clock: Clock,
        core: Redundancy | None = None,
    ) -> None:
        self._book = book
        self._hearsay = hearsay
        self._holdings = holdings
        self._store = store
        self._around = around
        self._clock = clock
        self._core = core or Redundancy(book.writer)
        self._doubts = Doubts(book.writer, store, around.lacking)
        self._versions: Mapping[PeerId, Version] = {}
        self._kept: list[Kept] = []
        self._removed: dict[RunId, float] = {}
        self._let_go_of: set[RunId] = set()
        self._inherited: set[RunId] = set()
        self._looked_at = clock.elapsed()
        self._has_checked = self._has_adopted = False
        self._is_decided = False
        self._is_full = False
        self._mates: dict[PeerId, Mate] = {}
        self._busy = 0
        self._under_way: dict[JobKey, int] = {}
        self._again: dict[JobKey, tuple[float, float]] = {}

    async def run(self, first_seconds: float = FIRST_SECONDS) -> None:
        """Never ends by itself. Begins after a while."""
        await asyncio.sleep(first_seconds)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask_again_and_again())
            while True:
                try:
                    await self.look(tasks)
                except (MeshError, OSError, sqlite3.Error) as error:  # the agent goes on without
                    log.warning("copies are not looked after: %s", error)
                await asyncio.sleep(LOOK_SECONDS)

    async def look(self, tasks: asyncio.TaskGroup) -> None:
        """Decides anew if anything changed or is awaited. What failed is done at the next look."""
        await self._read_records()
        await self._let_go()  # first: a full disk keeps the rest from being written down
        if not self._has_checked:
            await self._forget_lost()
            await self.ask()
            await self.inherit()
            self._has_checked = True
        if not self._has_adopted:
            await self._adopt()
            self._has_adopted = True
        mates = await self._see()
        is_news = not self._is_decided or mates != self._mates or self._core.waiting
        if not is_news or self._busy >= MOST_AT_ONCE:
            return
        self._mates, self._is_decided = mates, True
        now = self._clock.elapsed()
        orders = iter(self._core.decide(self._doubts.counted(self._kept), mates, now))
        for _ in range(MOST_AT_ONCE - self._busy):
            self._busy += 1
            tasks.create_task(self._carry_out_some(orders, now + ORDERED_SECONDS))

    async def ask(self) -> None:
        """Asks all who answer, and our own disk, for what they are said to have."""
        answering = [one for one, mate in self._mates.items() if mate.presence is Presence.HERE]
        if await self._doubts.ask(self._kept, answering):
            self._is_decided = False

    async def inherit(self) -> None:
        """Remembers the runs of our copies whose agents are silent for long."""
        copied = {key.run_id for key in self._holdings.own()} - self._inherited
        streams = [*self._book.streams.values(), *self._book.past.values()]
        others = [stream for stream in streams if stream.writer != self._book.writer]
        left = orphans(others, copied, int(self._clock.now().timestamp() * 1000))
        if not left:  # as in most meshes
            return
        runs = await asyncio.to_thread(merged_runs, await self._told())
        for run_id in left.keys() & runs.keys():
            await self._around.inherit(runs[run_id], left[run_id])
            self._inherited.add(run_id)

    async def _ask_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(ASK_SECONDS * random.uniform(0.5, 1))
            try:
                await self.ask()
                await self.inherit()
            except (MeshError, OSError, sqlite3.Error) as error:
                log.warning("copies are not asked for: %s", error)

    async def _read_records(self) -> None:
        versions = {writer: stream.version for writer, stream in self._book.streams.items()}
        if versions == self._versions:
            return
        self._is_decided = False
        told = await self._told()
        # Thousands of jobs: in a thread.
        removed, kept = await asyncio.to_thread(_read, told, self._hearsay.copies())
        now = self._clock.elapsed()
        self._removed = {run_id: self._removed.get(run_id, now) for run_id in removed}
        self._let_go_of &= removed
        self._kept = kept
        self._again = {one.key: at for one in kept if (at := self._again.get(one.key))}
        self._versions, self._has_adopted = versions, False

    async def _told(self) -> list[Listing]:
        told: list[Listing] = []
        for listing in self._hearsay.everybody():
            told.append(listing)
            await asyncio.sleep(0)
        return told

    async def _let_go(self) -> None:
        """Lets go of copies of what we heard a while ago is removed: a tag may be on its way."""
        now = self._clock.elapsed()
        if now - self._looked_at > SLEPT_SECONDS:
            self._removed = dict.fromkeys(self._removed, now)
        self._looked_at = now
        coming = {key.run_id for key in self._under_way}
        rested = {run for run, heard in self._removed.items() if now - heard > REST_SECONDS}
        rested -= self._let_go_of | coming
        # What ran here `removing` lets go of.
        rested = {run for run in rested if not self._book.has_own(RUN, run)}
        if not rested:  # as in most meshes
            return
        # Also what came in part, or was not told of yet. Told last: who is killed begins again.
        for run_id in rested & await asyncio.to_thread(self._store.shelf.owners):
            await asyncio.to_thread(self._store.let_go, run_id)
        await self._holdings.remove(key for key in self._holdings.own() if key.run_id in rested)
        self._let_go_of |= rested

    async def _see(self) -> dict[PeerId, Mate]:
        said = {one.said.card.peer_id: one.said for one in self._hearsay.adverts()}
        mates = {
            known.card.peer_id: _mate(known, said.get(known.card.peer_id) or known.answer)
            for known in self._around.agents()
            if not known.local and self._around.may_run(known)
        }
        room = await asyncio.to_thread(self._around.room) - sum(self._under_way.values())
        mates[self._book.writer] = _of_state(self._around.state(), _rough(room))
        return mates

    async def _carry_out_some(self, orders: Iterator[Copy], until: float) -> None:
        """Together with others that take from the same orders."""
        try:
            for order in orders:
                key, now = order.kept.key, self._clock.elapsed()
                if now > until:
                    break
                waits = key in self._under_way or now < self._again.get(key, (0.0, 0.0))[0]
                if not waits and self._may_tell(key):
                    await self._carry_out(order)
        finally:
            self._busy -= 1

    async def _carry_out(self, order: Copy) -> None:
        key = order.kept.key
        self._under_way[key] = order.kept.size_bytes
        try:
            for peer in order.doubted:
                if await self._around.has(peer, order.kept.digests[0]):
                    self._core.heard(peer, self._clock.elapsed())
                    return
            sources = [Source(peer) for peer in order.sources]
            for digest in order.kept.digests:
                await self._around.bring(digest, sources, order.kept.size_bytes)
                await asyncio.to_thread(self._store.keep, digest, key.run_id)
            await self._holdings.add(key)
            self._doubts.told(self._book.writer, order.kept.digests)
            self._again.pop(key, None)
            log.info("has a copy of what %s kept, %s bytes", key, f"{order.kept.size_bytes:,}")
        except (MeshError, OSError, sqlite3.Error) as error:
            _, pause = self._again.get(key, (0.0, AGAIN_SECONDS / 2))
            pause = min(2 * pause, LONGEST_SECONDS)
            self._again[key] = (self._clock.elapsed() + pause, pause)
            log.warning("what %s kept is not copied here: %s", key, error)
        finally:
            del self._under_way[key]

    def _may_tell(self, key: JobKey) -> bool:
        """Whether there is room to tell of a copy: one that nobody hears of helps nobody."""
        has_room = self._holdings.has_room(key)
        if not has_room and not self._is_full:
            log.warning("this agent tells of as many copies as it may and makes no more of some")
            self._is_full = True
        return has_room

    async def _adopt(self) -> None:
        """Tells of what lies here already for a run, as a command's second copy does."""
        ours = self._book.writer
        owners = await asyncio.to_thread(self._store.shelf.owners)
        perhaps = [
            kept for kept in self._kept if kept.key.run_id in owners and ours not in kept.holders
        ]
        whole = await asyncio.to_thread(self._whole_among, perhaps) if perhaps else ()
        if here := [key for key in whole if self._may_tell(key)]:
            with suppress(Busy):  # of the others it is told
                await self._holdings.add(*here)

    async def _forget_lost(self) -> None:
        """Says no more that we have what is not here, as after a disk was put back."""
        own = self._holdings.own()
        mine = [kept for kept in self._kept if kept.key in own]
        whole = frozenset(await asyncio.to_thread(self._whole_among, mine))
        lost = {kept.key for kept in mine} - whole
        if lost:
            log.warning("%d copies that were here are gone", len(lost))
            await self._holdings.remove(lost)

    def _whole_among(self, several: Sequence[Kept]) -> list[JobKey]:
        """Those of which everything is here and stays. Blocks."""
        roots = self._store.shelf.roots()
        here = {
            digest
            for digest in roots.intersection(digest for kept in several for digest in kept.digests)
            if not self._store.missing_manifest(digest)
        }
        return [kept.key for kept in several if here.issuperset(kept.digests)]


def _read(
    told: Sequence[Listing], copies: Mapping[JobKey, set[PeerId]]
) -> tuple[set[RunId], list[Kept]]:
    """Runs that are removed, and what the others kept."""
    removed = _removed(told)
    runs = (run for run in merged_runs(told).values() if run.run_id not in removed)
    return removed, kept_of(runs, copies)


def _removed(told: Sequence[Listing]) -> set[RunId]:
    """Runs that were removed and that no tag names."""
    tagged = {tag.run_id for tag in merged_tags(told).values()}
    return {
        one.run_id
        for listing in told
        for one in listing.removed
        if one.checked and one.run_id not in tagged
    }


def _mate(known: KnownAgent, said: HelloAnswer | None) -> Mate:
    """Another agent as it is known now; how much room it has as it last said."""
    if known.state not in ANSWERING:
        return Mate(Presence.SILENT)
    room = said.machine.disk_free_bytes if said is not None else 0
    state = {"draining": AgentState.DRAINING, "paused": AgentState.PAUSED}.get(known.state)
    return _of_state(state or AgentState.ALIVE, _rough(room))


def _of_state(state: AgentState, room: int) -> Mate:
    """One whose owner keeps her machine for herself keeps what it has and takes nothing more."""
    match state:
        case AgentState.ALIVE:
            return Mate(Presence.HERE, room)
        case AgentState.PAUSED:
            return Mate(Presence.HERE)
        case AgentState.DRAINING:
            return Mate(Presence.LEAVING)
    assert_never(state)


def _rough(room: float) -> int:
    """Not every byte is news."""
    return int(room // STEP_BYTES) * STEP_BYTES
