"""Who has copies of what jobs kept, as each agent publishes it of itself.

What an attempt kept never changes once the attempt ended, so an agent names attempts and no bytes.
It says so in a few records that share them out by job: thousands of copies are dozens of records.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby

from dstack_agent.hearsay import COPIES, Hearsay
from dstack_agent.wire import stored
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.faults import Busy
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import Entry
from dstack_scheduler.job import JobKey, JobRecord, RunRecord, Source

RECORDS = 32
"""Records over which an agent's copies are shared out."""

MOST_IN_ONE = 400
"""Attempts in one of them: 16 KiB."""


class Holdings:
    """What is published of copies, and our own part of it. For one event loop.

    Args:
        addresses: Where a peer can be dialled.
    """

    def __init__(
        self, book: RecordBook, hearsay: Hearsay, addresses: Callable[[PeerId], Sequence[Address]]
    ) -> None:
        self._book = book
        self._hearsay = hearsay
        self._addresses = addresses
        self._telling = asyncio.Lock()

    def own(self) -> set[JobKey]:
        """Attempts of which this agent says that it has copies."""
        return {key for keys in self._own_records().values() for key in keys}

    def has_room(self, key: JobKey) -> bool:
        """Whether one may say that we have what an attempt kept."""
        return len(self._own_records().get(_place(key), ())) < MOST_IN_ONE

    async def add(self, *keys: JobKey) -> None:
        """Says that we have what attempts kept; on disk on return.

        Raises:
            Busy: As many copies are told of as there is room for; the others are told of.
        """
        is_full = False
        async with self._telling:
            told = self._own_records()
            for place, new in groupby(sorted(keys, key=_place), _place):
                all_of_them = dict.fromkeys((*told.get(place, ()), *new))
                is_full |= len(all_of_them) > MOST_IN_ONE
                await self._say(place, list(all_of_them)[:MOST_IN_ONE])
        if is_full:
            most = f"There is room for about {RECORDS * MOST_IN_ONE:,}."
            raise Busy("This agent tells of as many copies as it may.", most)

    async def remove(self, keys: Iterable[JobKey]) -> None:
        """Says that we have them no more."""
        gone = set(keys)
        async with self._telling:
            for place, told in self._own_records().items():
                if gone.intersection(told):
                    await self._say(place, [key for key in told if key not in gone])

    def told(self) -> Callable[[RunRecord], RunRecord]:
        """Makes a run one in which each job says who has copies, whoever told of it."""
        held = self._hearsay.copies()
        return lambda run: self._run(run, held)

    def _run(self, run: RunRecord, held: Mapping[JobKey, set[PeerId]]) -> RunRecord:
        if not any(job.key in held for job in run.jobs):
            return run
        return replace(
            run, jobs=tuple(self._job(job, held.get(job.key, set())) for job in run.jobs)
        )

    def _job(self, job: JobRecord, holders: set[PeerId]) -> JobRecord:
        known = {copy.peer_id for copy in job.copies}
        more = (Source(peer, tuple(self._addresses(peer))) for peer in sorted(holders - known))
        return replace(job, copies=(*job.copies, *more))

    def _own_records(self) -> dict[str, tuple[JobKey, ...]]:
        return {
            record.entry.key: _unpacked(record.entry.payload) for record in self._book.own(COPIES)
        }

    async def _say(self, place: str, keys: Sequence[JobKey]) -> None:
        told = tuple(sorted(keys))
        entry = Entry(COPIES, place, stored.pack_copies(told))
        # From the beginning of time: an empty one is forgotten at once.
        await self._book.write([entry if told else replace(entry, expires_ms=1)])


@lru_cache(RECORDS)
def _unpacked(payload: bytes) -> tuple[JobKey, ...]:
    return stored.unpack_copies(payload)


def _place(key: JobKey) -> str:
    """By job and not by run: a run may have more jobs than one record has room for."""
    return f"{digest_of(f'{key.run_id}/{key.job}'.encode())[0] % RECORDS:02}"
