"""Tells the other agents how far our audit log is, and watches how far theirs are."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from dstack_agent.audit import heads
from dstack_agent.audit.chain import Head
from dstack_agent.audit.entry import Entry
from dstack_agent.audit.heads import Known
from dstack_agent.wire.stored import pack_head, unpack_head
from dstack_mesh.clock import Clock
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Invalid, MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import Entry as Record

log = logging.getLogger(__name__)

AUDIT = "audit"
"""Kind and key of the one record in which an agent tells of its audit log."""

LOOK_SECONDS = 10.0
"""How often it is looked what others tell."""

TELL_SECONDS = 60.0
"""Ours is told at most so often: each time costs a record at everybody."""

DAY_SECONDS = 86_400


@frozen
class Diary:
    """Our own audit log.

    Attributes:
        head: Its end.
        note: Writes a line.
    """

    head: Callable[[], Head]
    note: Callable[[Entry], None]


class Witness:
    """Publishes our head and remembers those of others; `run` must run.

    Args:
        name_of: What people call a peer.
        kept: The file that keeps what is known of others.
    """

    def __init__(
        self,
        book: RecordBook,
        diary: Diary,
        name_of: Callable[[PeerId], str],
        kept: Path,
        clock: Clock,
    ) -> None:
        self._book = book
        self._diary = diary
        self._name_of = name_of
        self._kept = kept
        self._clock = clock
        self._known = _read(kept)
        self._told_at: float | None = None

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                await self.look()
            except (MeshError, OSError, sqlite3.Error) as error:  # a full disk; tried again
                log.warning("audit logs are not watched: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Writes down what others tell, then tells how far we are."""
        day = int(self._clock.now().timestamp() // DAY_SECONDS)
        known, entries = heads.witnessed(self._known, self._told(), day)
        for entry in entries:
            self._diary.note(entry)
        if known != self._known:  # a death before that tells it twice
            await asyncio.to_thread(write_durably, self._kept, heads.encoded(known))
        self._known = known
        await self._tell()

    async def _tell(self) -> None:
        now = self._clock.elapsed()
        if self._told_at is not None and now - self._told_at < TELL_SECONDS:
            return
        head = self._diary.head()
        payload = pack_head(head)
        said = next((one.entry.payload for one in self._book.own(AUDIT)), b"")
        if head.seq and payload != said:
            await self._book.write([Record(AUDIT, AUDIT, payload)])
        self._told_at = now

    def _told(self) -> Iterator[tuple[PeerId, str, Head]]:
        for writer, stream in self._book.streams.items():
            record = stream.records.get((AUDIT, AUDIT))
            if record is None or writer == self._book.writer:
                continue
            try:
                yield writer, self._name_of(writer), unpack_head(record.entry.payload)
            except Invalid as error:
                log.info("what %s tells of its audit log cannot be read: %s", writer, error)


def _read(kept: Path) -> dict[PeerId, Known]:
    try:
        return heads.decoded(kept.read_bytes())
    except FileNotFoundError:
        return {}
    except Invalid as error:  # it begins anew
        log.warning("%s: %s", kept, error)
        return {}
