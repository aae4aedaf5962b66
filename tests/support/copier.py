"""An agent of tests that keeps second copies."""

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dstack_agent.copying import Copying
from dstack_agent.hearsay import COPIES, REMOVAL, RUN, TAG
from dstack_agent.holdings import MOST_IN_ONE, Holdings
from dstack_agent.wire import stored
from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.shelf import Shelf
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.ids import Address, Digest, MeshId, PeerId, RunId, RunName
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import Entry
from dstack_mesh.records.store import RecordStore
from dstack_mesh.records.stream import Stream
from dstack_scheduler.job import (
    ArtifactSaved,
    JobKey,
    JobRecord,
    JobState,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)
from dstack_scheduler.removal import Removal
from support.machines import SetClock

RUN_ID = RunId("0" * 26)
KEY = JobKey(RUN_ID, 0)
OTHER = PeerId("b" * 32)
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Agent:
    """One agent's copies, and what it is told."""

    book: RecordBook
    holdings: Holdings
    store: ChunkStore
    clock: SetClock
    digest: Digest
    copying: Copying
    records: "Records"
    brought: list[Digest] = field(default_factory=list[Digest])
    others: list[KnownAgent] = field(default_factory=list[KnownAgent])
    lost: dict[PeerId, set[Digest]] = field(default_factory=dict[PeerId, set[Digest]])
    inherited: list[tuple[RunRecord, PeerId]] = field(
        default_factory=list[tuple[RunRecord, PeerId]]
    )

    async def look(self) -> None:
        """One look, and what it orders."""
        async with asyncio.TaskGroup() as tasks:
            await self.copying.look(tasks)

    async def tell_of(
        self,
        *keys: JobKey,
        by: PeerId = OTHER,
        copies: Sequence[PeerId] = (),
        book: RecordBook | None = None,
    ) -> None:
        """Another agent's job kept the tree."""
        jobs = tuple(
            JobRecord(
                key,
                "train",
                "bash",
                StateChange(key, JobState.DONE, AT, exit_code=0),
                by,
                artifacts=(ArtifactSaved(key, "out", self.digest, 1, 4, complete=True),),
                copies=tuple(map(Source, copies)),
            )
            for key in keys
        )
        run_id = keys[0].run_id
        run = RunRecord(run_id, RunName("calm-ibex-1"), "train", "", AT, len(jobs), jobs=jobs)
        await (book or self.book).write([Entry(RUN, run_id, stored.pack_run(run))])

    async def remove(self) -> None:
        """Somebody removed the run, long ago by the clock of whoever says so."""
        removal = Removal(RUN_ID, AT, OTHER, checked=True)
        await self.book.write([Entry(REMOVAL, RUN_ID, stored.pack_removal(removal))])

    async def tag(self) -> None:
        tag = TagRecord("repo", "best", RUN_ID, "calm-ibex-1", AT)
        await self.book.write([Entry(TAG, "repo:best", stored.pack_tag(tag))])

    async def fill(self) -> None:
        """As many attempts are told of as there is room for beside the job."""
        await self.holdings.add(KEY)
        [record] = self.book.own(COPIES)
        keys = [replace(KEY, attempt=number + 2) for number in range(MOST_IN_ONE)]
        await self.book.write([replace(record.entry, payload=stored.pack_copies(keys))])

    def keep(self) -> None:
        self.store.keep(self.digest, RUN_ID)


class Records(RecordStore):
    """On a disk that is full when told."""

    is_full = False

    async def save(self, earlier: Stream | None, stream: Stream, durable: bool) -> None:
        if self.is_full:
            raise sqlite3.OperationalError("database or disk is full")
        await super().save(earlier, stream, durable)


class CountingShelf(Shelf):
    """Counts how often the kept ones are listed."""

    counted = 0

    def roots(self) -> set[Digest]:
        self.counted += 1
        return super().roots()


def is_here(peer: PeerId) -> KnownAgent:
    """Another agent that answers and takes no copies."""
    card = PeerCard(peer, MeshId("m" * 32), "ws-2", (Address("10.0.0.1:1"),), "", True)
    return KnownAgent(card, card.addresses, "seed", "alive", None)
