"""Keeps the chunk store of an agent small and whole: collects every hour, scrubs all the time.

Both work in threads, in small pieces, and rest between them, so that jobs and transfers do not
notice. How far they have come is on disk: an agent that leaves when it is idle goes on next time.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from dstack_agent.copies import Copies
from dstack_agent.memory import Memory
from dstack_agent.roots import roots_of
from dstack_agent.settings import Settings
from dstack_mesh.chunks.collecting import Collected, Collector, Rules
from dstack_mesh.chunks.scrubbing import Scrubbed, scrub
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.to_the_end import to_the_end
from dstack_mesh.wire.channels import Channels

R = TypeVar("R")

log = logging.getLogger(__name__)

COLLECTED, SCRUBBED = "collected", "scrubbed"
"""Cursors that say when it was done last."""

REST = 9
"""A piece of collecting that took t seconds is followed by REST times t seconds of rest."""

LONGEST_REST_SECONDS = 2.0


@frozen
class Habits:
    """How often and how fast.

    Attributes:
        first_seconds: After the start of the agent, which has better things to do then.
        collect_seconds: Between two collections. Shorter: room comes back sooner.
        scrub_seconds: From the end of a pass to the next. Shorter: damage is found while another
            copy is sure to exist; longer: less disk is used up by reading.
        scrub_bytes_per_second: 8 MiB/s read 1 TiB in a day and a half.
    """

    first_seconds: float = 120.0
    collect_seconds: float = 3600.0
    scrub_seconds: float = 7 * 86_400.0
    scrub_bytes_per_second: float = 8 << 20


class _Stopped(Exception):
    """The agent stops."""


class Housekeeping:
    """Collects and scrubs one store while `run` runs.

    Args:
        roots: The trees that must stay.
    """

    def __init__(
        self,
        store: ChunkStore,
        roots: Callable[[], Awaitable[set[Digest]]],
        habits: Habits | None = None,
        rules: Rules | None = None,
    ) -> None:
        self._store = store
        self._roots = roots
        self._habits = habits or Habits()
        self._rules = rules or Rules()
        self._stopping = threading.Event()

    async def run(self) -> None:
        """Never ends by itself. On return no thread of it works any more."""
        await asyncio.sleep(self._habits.first_seconds)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again(COLLECTED, self._habits.collect_seconds, self._collect))
            group.create_task(self._again(SCRUBBED, self._habits.scrub_seconds, self._scrub))

    async def _again(
        self, name: str, every_seconds: float, work: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            try:
                await asyncio.sleep(self._left(name, every_seconds))
                await work()
                self._store.index.put_cursor(name, str(time.time()))
            except (MeshError, OSError, sqlite3.Error) as error:  # the agent does not end of it
                log.warning("The chunk store was not %s: %s", name, error)
                await asyncio.sleep(every_seconds / 10)

    def _left(self, name: str, every_seconds: float) -> float:
        """How long until it is due; a clock that was set back makes nobody wait longer."""
        with suppress(ValueError):  # a damaged index: it is due
            last = float(self._store.index.cursor(name))
            return min(max(0.0, last + every_seconds - time.time()), every_seconds)
        return 0.0

    async def _collect(self) -> None:
        if drafts := await self._in_thread(self._store.drafts.sweep):
            log.info("%d files that were never whole are removed", drafts)
        roots = await self._roots()
        collector = Collector(self._store, lambda: roots, self._rules, _Pace(self._stopping))
        found = await self._in_thread(collector.collect)
        if found.blocked:
            log.warning("Chunks that are not needed stay: %s", found.blocked)
        if found != Collected(store_bytes=found.store_bytes, waiting_bytes=found.waiting_bytes):
            log.info("collected: %s", collected_text(found))

    async def _scrub(self) -> None:
        total = Scrubbed()
        pieces = scrub(self._store)
        while (piece := await self._in_thread(lambda: _next(pieces))) is not None:
            total += piece
            await asyncio.sleep(piece.size_bytes / self._habits.scrub_bytes_per_second)
        if total.damaged or total.mended or total.index_damaged:
            log.warning("scrubbed: %s", scrubbed_text(total))

    async def _in_thread(self, work: Callable[[], R]) -> R:
        """Calls it in a thread; when the agent stops, first waits for the piece under way."""
        return await to_the_end(work, self._stopping.set)


def housekeeping_of(
    settings: Settings,
    memory: Memory,
    channels: Channels,
    known: Callable[[], Sequence[KnownAgent]],
) -> Housekeeping:
    """What keeps the store of an agent, which is told its quota and who has copies."""
    memory.store.source = Copies(channels, known)
    memory.store.most_bytes = settings.max_store_bytes
    roots = partial(roots_of, memory.records, memory.driven, memory.caches)
    return Housekeeping(memory.store, roots)


def collected_text(found: Collected) -> str:
    """What a collection did, for people."""
    return (
        f"{found.trees:,} trees and {found.chunks:,} chunks that nothing needs,"
        f" {found.freed_bytes:,} bytes freed, {found.waiting_bytes:,} more after a grace"
    )


def scrubbed_text(found: Scrubbed) -> str:
    """What a scrub found, for people."""
    told = (
        f"{found.chunks:,} chunks and {found.manifests:,} lists of files read,"
        f" {found.size_bytes:,} bytes; {found.damaged:,} damaged, {found.mended:,} mended"
    )
    return told + ("; the index is damaged" if found.index_damaged else "")


class _Pace:
    """Rests between pieces of work, in a thread."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._since = time.monotonic()

    def __call__(self) -> None:
        took = time.monotonic() - self._since
        if self._stopping.wait(min(took * REST, LONGEST_REST_SECONDS)):
            raise _Stopped
        self._since = time.monotonic()


def _next(pieces: Iterator[Scrubbed]) -> Scrubbed | None:
    return next(pieces, None)
