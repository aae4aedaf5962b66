"""Tells the other agents what this one knows: its runs and tags, itself, the ends of its logs.

Each is a record that replaces what was said about the same thing before. A run that changes often
costs one record at a time; one that ended is written once more and then rests.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dstack_agent import shares
from dstack_agent.hearsay import AGENT, EVIDENCE, LOG, REMOVAL, RUN, SHEET, TAG, Hearsay
from dstack_agent.listing import Listings
from dstack_agent.logs.journal import Frame, JournalReader
from dstack_agent.records import Accepted, Records
from dstack_agent.removals import Removals
from dstack_agent.sheets import run_of, written
from dstack_agent.tags import Tags
from dstack_agent.touched import Touched
from dstack_agent.wire import stored
from dstack_mesh.card import HelloAnswer
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId
from dstack_mesh.machine import Machine
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import PAYLOAD_BYTES, Entry, Name
from dstack_scheduler.evidence import Evidence
from dstack_scheduler.job import JobKey, LogStream, LogTail, TagRecord
from dstack_scheduler.wire.evidence import pack_evidence

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.05
"""What changes within this time is written together: a write waits for the disk."""

TAIL_BYTES = 4096
"""Of each stream of a job that ended."""

SOME = 50
"""Records that are written at a time."""

ADVERT_SECONDS = 5.0
"""What an agent says of itself changes at most so often."""

LOOK_SECONDS = 1.0
"""How often it is looked whether that changed."""

RENEW_SECONDS = 240.0
EXPIRES_SECONDS = 600.0
"""Without renewal it is believed so long."""

AGAIN_SECONDS = 10.0
"""Before it is tried again where the disk is full."""

KINDS = (RUN, SHEET, TAG, LOG, EVIDENCE, REMOVAL)
OF_RUNS = (RUN, SHEET, LOG, EVIDENCE)
"""Kinds whose keys begin with the run's id."""

REMOVED_DAYS = 90
"""An agent that was away for longer still tells of a run that was removed meanwhile."""

RIVAL = "/"
"""Between a tag's key and the run of a claim that lost."""

_EIGHTHS = 8
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@frozen
class Sources:
    """What is published.

    Attributes:
        machine: What we have now; called in a thread, for it reads the ledger.
        answer: What we would answer to Hello, with this machine.
        journal: Where the log of an attempt is.
    """

    listings: Listings
    records: Records
    tags: Tags
    removals: Removals
    touched: Touched
    machine: Callable[[], Machine]
    answer: Callable[[Machine], HelloAnswer]
    journal: Callable[[Accepted], Path]


class Publisher:
    """Keeps our own records in the book up to date; `run` must run."""

    def __init__(self, book: RecordBook, sources: Sources, hearsay: Hearsay, clock: Clock) -> None:
        self._book = book
        self._sources = sources
        self._hearsay = hearsay
        self._clock = clock
        self._said: tuple[float, HelloAnswer] | None = None

    async def run(self) -> None:
        """Publishes until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._say_who_we_are())
            await self._tried(self._catch_up)
            while True:
                await self._sources.touched.wait()
                await asyncio.sleep(GATHER_SECONDS)
                await self._tried(self._follow_up)

    async def _tried(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does it until it succeeds: others hear it later, and our own work goes on."""
        while True:
            try:
                await work()
                return
            except (MeshError, sqlite3.Error, OSError) as error:
                log.warning("other agents are not told: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _catch_up(self) -> None:
        """Publishes what changed while nobody published: what is not known to have ended."""
        self._sources.touched.take()
        resting = {
            record.entry.key for record in self._book.own(RUN) if _rests(record.entry.payload)
        }
        runs = [run_id for run_id in self._sources.listings.run_ids() if run_id not in resting]
        await self._publish(runs, tags=True)

    async def _follow_up(self) -> None:
        runs, tags = self._sources.touched.take()
        try:
            await self._publish(sorted(runs, reverse=True), tags)
        except BaseException:
            for run_id in runs:  # for the next try
                self._sources.touched.run(run_id)
            if tags:
                self._sources.touched.tags()
            raise

    async def _publish(self, runs: Sequence[RunId], tags: bool) -> None:
        for begin in range(0, len(runs), SOME):
            some = runs[begin : begin + SOME]
            entries: list[Entry] = []
            for run_id in some:
                entries += await self._of_run(run_id)
            await self._write(entries)
        if tags:
            await self._write([*self._tags(), *self._settled(), *self._removals()])

    async def _write(self, entries: Sequence[Entry]) -> None:
        """Publishes what is not said already, and takes back what is too much then."""
        said = {
            record.entry.name: record.entry for kind in KINDS for record in self._book.own(kind)
        }
        new = {entry.name: entry for entry in entries}
        gone = _superseded(said, new)
        left = {**said, **new}.items()
        gone |= {one.name for one in self._too_much(one for name, one in left if name not in gone)}
        gone |= self._hidden(said.keys() | new.keys())
        words = [one for name, one in new.items() if name not in gone and said.get(name) != one]
        # From the beginning of time: it is forgotten at once.
        words += [Entry(*name, expires_ms=1) for name in sorted(gone & said.keys())]
        if words:
            await self._book.write(words)

    async def _of_run(self, run_id: RunId) -> list[Entry]:
        """What is said of a run; a row that cannot be read holds up no other run."""
        entries: list[Entry] = []
        try:
            entries += self._record(run_id)
            entries += await self._logs(run_id)
            entries += self._evidence(run_id)
        except MeshError as error:
            log.warning("others are not told all of run %s: %s", run_id, error)
        return entries

    def _record(self, run_id: RunId) -> Iterator[Entry]:
        record = self._sources.listings.run(run_id)
        told = written(record) if record is not None else None
        if told is not None:
            yield from (Entry(SHEET, key, sheet) for key, sheet in told.sheets.items())
            yield Entry(RUN, run_id, told.run)

    async def _logs(self, run_id: RunId) -> list[Entry]:
        entries: list[Entry] = []
        for accepted in self._sources.records.of_run(run_id):
            key = attempt_key(accepted.key)
            if accepted.fin is None or self._book.has_own(LOG, key):
                continue
            journal = self._sources.journal(accepted)
            tail = await asyncio.to_thread(tail_of, accepted, journal)
            if tail is not None:
                entries.append(Entry(LOG, key, stored.pack_tail(tail)))
        return entries

    def _evidence(self, run_id: RunId) -> list[Entry]:
        """What was signed of attempts that ended; one that is too long is asked for here alone."""
        entries: list[Entry] = []
        for accepted in self._sources.records.of_run(run_id):
            events = self._sources.records.events(accepted.key) if accepted.fin else ()
            if events and self._sources.records.is_sealed(accepted.key):
                payload = pack_evidence(Evidence(accepted.key, events, accepted.vouched))
                if len(payload) <= PAYLOAD_BYTES:
                    entries.append(Entry(EVIDENCE, attempt_key(accepted.key), payload))
        return entries

    def _tags(self) -> Iterator[Entry]:
        newest = sorted(self._sources.tags.all(), key=lambda tag: (tag.at, tag.run_id or ""))
        told: set[str] = set()
        for tag in reversed(newest[-shares.TAGS.most :]):
            key = tag_key(tag)
            yield Entry(TAG, key if key not in told else rival_key(tag), stored.pack_tag(tag))
            told.add(key)

    def _settled(self) -> Iterator[Entry]:
        """Claims that lost and are history by now: taken back."""
        known = {rival_key(tag) for tag in self._sources.tags.all()}
        for record in self._book.own(TAG):
            if RIVAL in record.entry.key and record.entry.key not in known:
                yield Entry(*record.entry.name, expires_ms=1)

    def _removals(self) -> Iterator[Entry]:
        for removal in self._sources.removals.all(shares.REMOVALS.most):
            expires = _ms(removal.at + timedelta(days=REMOVED_DAYS))
            yield Entry(REMOVAL, removal.run_id, stored.pack_removal(removal), expires)

    def _hidden(self, names: Iterable[Name]) -> set[Name]:
        """What must be let go because its run is removed."""
        hidden = self._sources.listings.hidden()
        return {
            (kind, key)
            for kind, key in (names if hidden else ())
            if kind in OF_RUNS and run_of(key) in hidden
        }

    def _tagged(self) -> Iterator[str]:
        yield from (tag.run_id for tag in self._sources.tags.all() if tag.run_id)

    def _too_much(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """What must be let go of all that we would say then."""
        said: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
        for entry in sorted(entries, key=lambda entry: entry.key):
            said[entry.kind].append(entry)
        yield from shares.runs_too_much([*said[RUN], *said[SHEET]], self._tagged())
        yield from shares.LOGS.too_much(said[LOG])
        yield from shares.EVIDENCES.too_much(said[EVIDENCE])
        yield from shares.REMOVALS.too_much(said[REMOVAL])
        if shares.TAGS.too_much(said[TAG]):
            at = {tag_key(tag): tag.at for tag in self._sources.tags.all()}
            by_age = sorted(said[TAG], key=lambda entry: at.get(entry.key, _LONG_AGO))
            yield from shares.TAGS.too_much(by_age)

    # Ourselves

    async def _say_who_we_are(self) -> None:
        while True:
            await self._tried(self.advertise)
            await asyncio.sleep(LOOK_SECONDS)

    async def advertise(self) -> None:
        """Says who we are, if that changed or was not said for long, and not too often."""
        if self._said is not None and self._clock.elapsed() - self._said[0] < ADVERT_SECONDS:
            return
        answer = self._sources.answer(await asyncio.to_thread(self._sources.machine))
        self._hearsay.prune()
        now = self._clock.elapsed()
        if self._said is not None:
            said_at, said = self._said
            if essence(said) == essence(answer) and now - said_at < RENEW_SECONDS:
                return
        expires = self._clock.now() + timedelta(seconds=EXPIRES_SECONDS)
        entry = Entry(AGENT, AGENT, stored.pack_answer(answer), _ms(expires))
        await self._book.write([entry])
        self._said = (now, answer)


def _superseded(said: Iterable[Name], new: Iterable[Name]) -> set[Name]:
    """Sheets that a run has no more which is told anew."""
    kept = frozenset(new)
    again = {key for kind, key in kept if kind == RUN}
    return {name for name in said if name[0] == SHEET and run_of(name[1]) in again} - kept


def tail_of(accepted: Accepted, journal: Path) -> LogTail | None:
    """The end of the log of an attempt that ended; None if it wrote nothing."""
    fin = accepted.fin
    if fin is None or not fin.stdout_bytes + fin.stderr_bytes:
        return None
    reader = JournalReader(journal)
    try:
        ends = {
            LogStream.STDOUT: _end(reader, LogStream.STDOUT, fin.stdout_bytes, fin.stderr_bytes),
            LogStream.STDERR: _end(reader, LogStream.STDERR, fin.stderr_bytes, fin.stdout_bytes),
        }
    finally:
        reader.close()
    return LogTail(
        key=accepted.key,
        stdout_bytes=fin.stdout_bytes,
        stdout=ends[LogStream.STDOUT],
        stderr_bytes=fin.stderr_bytes,
        stderr=ends[LogStream.STDERR],
        at=fin.state.at,
    )


def _end(reader: JournalReader, stream: LogStream, length: int, other: int) -> bytes:
    """The last bytes of a stream; what comes after a hole in them."""
    at = max(0, length - TAIL_BYTES)
    end = b""
    while at < length:
        stdout, stderr = (at, other) if stream is LogStream.STDOUT else (other, at)
        pieces = [
            piece for piece in reader.read(stdout, stderr, 4 * TAIL_BYTES) if piece.stream is stream
        ]
        if not pieces:
            break
        for piece in pieces:
            end = end + piece.data if isinstance(piece, Frame) else b""
        at = pieces[-1].end
    return end[-TAIL_BYTES:]


def attempt_key(key: JobKey) -> str:
    """Names what is said of an attempt."""
    return f"{key.run_id}/{key.job}/{key.attempt}"


def tag_key(tag: TagRecord) -> str:
    """Names the tag of a repository, however long both are."""
    return digest_of(f"{tag.repo}\0{tag.tag}".encode()).hex()[:32]


def rival_key(tag: TagRecord) -> str:
    """Names a claim beside the one that counts."""
    return f"{tag_key(tag)}{RIVAL}{tag.run_id}"


def essence(answer: HelloAnswer) -> HelloAnswer:
    """What others care for: without the time, and with free memory and disk in rough steps."""
    machine = answer.machine
    rough = replace(
        machine,
        memory_free_bytes=_rough(machine.memory_free_bytes, machine.memory_bytes),
        disk_free_bytes=_rough(machine.disk_free_bytes, 100 << 30),
    )
    return replace(answer, machine=rough, known=(), now=None)


def _rough(free: int, whole: int) -> int:
    return free * _EIGHTHS // max(whole, 1)


def _rests(payload: bytes) -> bool:
    """Whether all jobs of a run that are known have ended, as far as it can be read."""
    try:
        run = stored.unpack_run(payload)
    except MeshError:
        return False
    return bool(run.jobs) and all(job.state.state.ended for job in run.jobs)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
