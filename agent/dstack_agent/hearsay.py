"""What other agents published of their runs, of themselves and of their logs, for who asks us."""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import TypeVar

from dstack_agent.named import Named
from dstack_agent.pulse import Pulse
from dstack_agent.sheets import joined, run_of
from dstack_agent.wire import stored
from dstack_mesh.card import HelloAnswer
from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook, shown
from dstack_mesh.records.record import Record
from dstack_mesh.records.stream import Stream
from dstack_scheduler.agent_port import Advert, Listing, Telling
from dstack_scheduler.evidence import Evidence
from dstack_scheduler.job import JobKey, LogTail, RunRecord, TagRecord
from dstack_scheduler.removal import Removal
from dstack_scheduler.wire.evidence import unpack_evidence

log = logging.getLogger(__name__)

RUN, TAG, AGENT, LOG, EVIDENCE = "run", "tag", "agent", "log", "evidence"
REMOVAL, COPIES, SHEET = "removal", "copies", "sheet"
"""Kinds of records that agents write."""

MOST_RUNS = 1_000
MOST_TAGS = 1_000
MOST_BYTES = 2 << 20
"""Of one answer: what a message may have is 4 MiB, and our own runs are in it."""

T = TypeVar("T")

Said = tuple[list[RunRecord], tuple[TagRecord, ...]]


@frozen
class _Read:
    """A record's payload as it was read; None if it cannot be."""

    leaf: bytes
    value: object


class Hearsay:
    """Reads the book. What was read once is kept until it is replaced.

    Of who is believed no more only ended runs and their logs are told; `revoked` says of whom that
    is so because the mesh shut it out.
    """

    def __init__(
        self,
        book: RecordBook,
        pulse: Pulse,
        clock: Clock,
        revoked: Callable[[PeerId], bool] = lambda peer: False,
    ) -> None:
        self._book = book
        self._pulse = pulse
        self._clock = clock
        self._revoked = revoked
        self._read: dict[tuple[PeerId, str, str], _Read] = {}

    def tellings(self, names: tuple[str, ...]) -> tuple[Telling, ...]:
        """What others said of their runs and tags: all, or runs named by id or begin of a name.

        Bounded: of all runs the newest ones, and those that a tag names.
        """
        named = Named.of(names) if names else None
        said = {writer: self._said(stream, named) for writer, stream in self._others()}
        said |= {w: (self._over(stream, named), ()) for w, stream in self._book.past.items()}
        kept = self._fitting(said)
        answering = self._pulse.answering()
        tellings: list[Telling] = []
        for writer, (runs, tags) in said.items():
            chosen = tuple(run for run in runs if (writer, run.run_id) in kept)
            removed = tuple(self._removed(writer))
            if chosen or tags or removed:
                tellings.append(self._telling(answering.get(writer), writer, chosen, tags, removed))
        return tuple(tellings)

    def adverts(self) -> tuple[Advert, ...]:
        """What each agent last said of itself, ours too."""
        found: list[Advert] = []
        answering = self._pulse.answering()
        for writer, stream in self._book.streams.items():
            said = self._advert(stream)
            if said is not None and said.card.peer_id == writer:
                answers = writer in answering or writer == self._book.writer
                found.append(Advert(said, self._heard_at(stream, answers), answers))
        return tuple(found)

    def tails(self, run_id: RunId) -> tuple[LogTail, ...]:
        """The ends of a run's logs, ours too."""
        found = {
            tail.key: tail
            for stream in [*self._book.past.values(), *self._book.streams.values()]
            for tail in self._each(stream, LOG, stored.unpack_tail, f"{run_id}/")
        }
        return tuple(found[key] for key in sorted(found) if key.run_id == run_id)

    def evidence(self, run_id: RunId) -> tuple[Evidence, ...]:
        """What is signed of a run's attempts elsewhere. Whoever signs it published it."""
        return tuple(
            one
            for writer, stream in self._others()
            for one in self._each(stream, EVIDENCE, unpack_evidence, f"{run_id}/")
            if one.key.run_id == run_id and one.events and one.events[0].signer == writer
        )

    def tags(self) -> Iterator[TagRecord]:
        """What others say of tags."""
        for _, stream in self._others():
            yield from self._each(stream, TAG, stored.unpack_tag)

    def removals(self) -> Iterator[Removal]:
        """What others say of runs that are removed."""
        for _, stream in self._others():
            yield from self._each(stream, REMOVAL, stored.unpack_removal)

    def tells_of(self, run_id: RunId) -> bool:
        """Whether another agent tells of a run, or told of it."""
        streams = [*self._book.past.values(), *(stream for _, stream in self._others())]
        return any((RUN, run_id) in stream.records for stream in streams)

    def copies(self) -> dict[JobKey, set[PeerId]]:
        """Who says to have copies of what an attempt kept, ours too."""
        found: dict[JobKey, set[PeerId]] = {}
        for writer, stream in self._book.streams.items():
            for key in chain(*self._each(stream, COPIES, stored.unpack_copies)):
                found.setdefault(key, set()).add(writer)
        return found

    def everybody(self) -> Iterator[Listing]:
        """What each writer tells, ours too; of who is believed no more the runs that were over."""
        for stream in list(self._book.streams.values()):
            yield Listing(
                tuple(self._runs(stream, None)),
                tuple(self._each(stream, TAG, stored.unpack_tag)),
                removed=tuple(self._each(stream, REMOVAL, stored.unpack_removal)),
            )
        for stream in list(self._book.past.values()):
            yield Listing(tuple(self._over(stream, None)), ())

    def _others(self) -> Iterator[tuple[PeerId, Stream]]:
        ours = self._book.writer
        return ((w, stream) for w, stream in self._book.streams.items() if w != ours)

    def _said(self, stream: Stream, named: Named | None) -> Said:
        runs = [run for run in self._runs(stream, named) if (RUN, run.run_id) in stream.records]
        tags = sorted(self._each(stream, TAG, stored.unpack_tag), key=lambda tag: tag.at)
        return runs, tuple(tags[-MOST_TAGS:])

    def _runs(self, stream: Stream, named: Named | None) -> Iterator[RunRecord]:
        """Runs of a writer, with the jobs that have sheets of their own."""
        sheets = self._sheets(stream)
        for run in self._each(stream, RUN, stored.unpack_run):
            if named is None or named.means(run.run_id, run.run_name):
                beside = sheets.get(run.run_id)
                yield run if beside is None else self._joined(run, stream.writer, beside)

    def _sheets(self, stream: Stream) -> dict[str, list[Record]]:
        """By run, in the order of their keys."""
        found: dict[str, list[Record]] = {}
        for sheet in sorted(shown(stream, SHEET, self._now_ms()), key=lambda one: one.entry.key):
            found.setdefault(run_of(sheet.entry.key), []).append(sheet)
        return found

    def _joined(self, run: RunRecord, writer: PeerId, sheets: Sequence[Record]) -> RunRecord:
        read = (self._value(writer, sheet, stored.unpack_sheet) for sheet in sheets)
        return joined(run, (jobs for jobs in read if jobs is not None))

    def _over(self, stream: Stream, named: Named | None) -> list[RunRecord]:
        """Of a writer who is believed no more: the runs that were over by then."""
        runs, _ = self._said(stream, named)
        return [run for run in runs if run.jobs and all(job.state.state.ended for job in run.jobs)]

    def _stream(self, writer: PeerId) -> Stream:
        return self._book.streams.get(writer) or self._book.past[writer]

    def _fitting(self, said: dict[PeerId, Said]) -> set[tuple[PeerId, RunId]]:
        """Which runs of whom fit into an answer: those with a tag, then the newest."""
        tagged = {tag.run_id for _, tags in said.values() for tag in tags}
        runs = [
            (run.run_id in tagged, run.run_id, w) for w, (each, _) in said.items() for run in each
        ]
        kept: set[tuple[PeerId, RunId]] = set()
        sizes = {writer: self._sizes(self._stream(writer)) for writer in said}
        room = MOST_BYTES
        for _, run_id, writer in sorted(runs, reverse=True)[:MOST_RUNS]:
            size = sizes[writer][run_id]
            if size <= room:
                kept.add((writer, run_id))
                room -= size
        return kept

    def _sizes(self, stream: Stream) -> dict[str, int]:
        """Bytes of each run with its sheets."""
        sizes: dict[str, int] = {}
        for kind, key in stream.records:
            if kind in (RUN, SHEET):
                size = len(stream.records[kind, key].entry.payload)
                sizes[run_of(key)] = sizes.get(run_of(key), 0) + size
        return sizes

    def _telling(
        self,
        known: KnownAgent | None,
        writer: PeerId,
        runs: tuple[RunRecord, ...],
        tags: tuple[TagRecord, ...],
        removed: tuple[Removal, ...],
    ) -> Telling:
        stream, past = self._stream(writer), writer not in self._book.streams
        known = None if past else known
        said = self._advert(stream)
        card = known.card if known is not None else (said.card if said is not None else None)
        return Telling(
            agent_id=writer,
            agent_name=card.name if card is not None else "",
            heard_at=self._heard_at(stream, known is not None),
            answers=known is not None,
            said_at=_moment(stream),
            runs=tuple(sorted(runs, key=lambda run: run.run_id, reverse=True)),
            tags=tags,
            revoked=self._revoked(writer),
            removed=removed,
        )

    def _removed(self, writer: PeerId) -> Iterator[Removal]:
        stream = self._book.streams.get(writer)
        if stream is not None:
            yield from self._each(stream, REMOVAL, stored.unpack_removal)

    def _heard_at(self, stream: Stream, answers: bool) -> datetime:
        now = self._clock.now()
        if answers:
            return now
        heard = self._pulse.heard(stream.writer)
        said = min(_moment(stream), now)
        return said if heard is None else max(heard, said)

    def _advert(self, stream: Stream) -> HelloAnswer | None:
        # An advert that has expired is what its agent last said all the same.
        record = stream.records.get((AGENT, AGENT))
        return self._value(stream.writer, record, stored.unpack_answer) if record else None

    def _each(
        self, stream: Stream, kind: str, unpack: Callable[[bytes], T], begin: str = ""
    ) -> Iterator[T]:
        for record in shown(stream, kind, self._now_ms()):
            if record.entry.key.startswith(begin):
                value = self._value(stream.writer, record, unpack)
                if value is not None:
                    yield value

    def _value(self, writer: PeerId, record: Record, unpack: Callable[[bytes], T]) -> T | None:
        place = (writer, *record.entry.name)
        read = self._read.get(place)
        if read is None or read.leaf != record.leaf:
            try:
                value = unpack(record.entry.payload)
            except (MeshError, ValueError) as error:  # by a newer agent, or by a wrong one
                log.info("a record of %s cannot be read: %s", writer, error)
                value = None
            self._read[place] = read = _Read(record.leaf, value)
        return read.value  # pyright: ignore[reportReturnType] - one kind, one type

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def prune(self) -> None:
        """Lets go of what was read of records that are not held any more."""
        streams = {**self._book.past, **self._book.streams}
        for place in list(self._read):
            stream = streams.get(place[0])
            if stream is None or place[1:] not in stream.records:
                del self._read[place]


def _moment(stream: Stream) -> datetime:
    return datetime.fromtimestamp(stream.head.at.ms / 1000, UTC)
