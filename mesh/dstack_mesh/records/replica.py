"""All streams that a peer holds, and how a delta of another peer changes them. Pure."""

from collections.abc import Iterator, Mapping
from enum import Enum, auto

from dstack_mesh.faults import Busy, Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.records.record import NOTHING, Delta, Head, Version
from dstack_mesh.records.stream import Stream, stream_of


@frozen
class Bounds:
    """How much a peer holds. More: more of the past is known; less: less memory.

    Attributes:
        writers: Streams of others.
        records: Records of one stream.
        stream_bytes: Bytes of one stream.
        total_bytes: Bytes of all streams of others.
    """

    writers: int = 512
    records: int = 4096
    stream_bytes: int = 8 << 20
    total_bytes: int = 64 << 20


BOUNDS = Bounds()

RETIRED_MS = 30 * 86_400_000
"""A writer that wrote nothing for so long is forgotten everywhere."""


class Outcome(Enum):
    """What became of a delta."""

    TAKEN = auto()
    KNOWN = auto()
    """The same version or a later one is held."""
    UNFIT = auto()
    """It does not add up with what is held: more of the stream is needed."""
    REFUSED = auto()
    """There is no room for it, or its writer's clock is wrong; other streams may be taken."""


class Replica:
    """What one peer holds of every writer. Give it only deltas whose signatures were checked.

    Args:
        bounds: How much.
        own: Whose stream has room whatever others send.
    """

    def __init__(self, bounds: Bounds = BOUNDS, own: PeerId | None = None) -> None:
        self._bounds = bounds
        self._own = own
        self._streams: dict[PeerId, Stream] = {}

    @property
    def streams(self) -> Mapping[PeerId, Stream]:
        """By writer."""
        return self._streams

    def version(self, writer: PeerId) -> Version:
        """How far a writer's stream is held."""
        stream = self._streams.get(writer)
        return stream.version if stream is not None else NOTHING

    def versions(self) -> dict[PeerId, Version]:
        """How far each stream is held."""
        return {writer: stream.version for writer, stream in self._streams.items()}

    def lacking(self, known: Mapping[PeerId, Version]) -> Iterator[Delta]:
        """What a peer lacks that holds these versions, the smallest streams first."""
        for stream in sorted(self._streams.values(), key=lambda one: one.size_bytes):
            version = known.get(stream.writer, NOTHING)
            if version < stream.version:
                yield stream.since(version)

    def merge(self, delta: Delta, now_ms: int) -> Outcome:
        """Takes a delta over if it makes a newer version of its writer's stream.

        Raises:
            Busy: It would take more room than there is.
            Invalid: Its time is absurd.
        """
        held = self._streams.get(delta.writer)
        if delta.head.version <= self.version(delta.writer) or retired(delta.head, now_ms):
            return Outcome.KNOWN
        if delta.head.at.absurd(now_ms):
            raise Invalid(
                "A peer's clock is more than a day ahead.",
                f"{delta.writer} says {delta.head.at.ms}, here it is {now_ms}.",
                "Set its clock.",
                "clock-ahead",
            )
        stream = stream_of(held, delta)
        if stream is None:
            return Outcome.UNFIT
        if not self._has_room(stream):
            self.retire(now_ms)
        self.put(stream)
        return Outcome.TAKEN

    def put(self, stream: Stream) -> None:
        """Holds a stream in the place of what was held of its writer. Raises Busy."""
        self.check_size(stream)
        if not self._has_room(stream):
            raise self._full(stream)
        self._streams[stream.writer] = stream

    def check_size(self, stream: Stream) -> None:
        """Raises Busy for a stream that is too large by itself: nobody would hold it."""
        bounds = self._bounds
        if len(stream.records) > bounds.records or stream.size_bytes > bounds.stream_bytes:
            raise self._full(stream)

    def _has_room(self, stream: Stream) -> bool:
        if stream.writer == self._own:
            return True
        apart = (self._own, stream.writer)
        others = [one.size_bytes for writer, one in self._streams.items() if writer not in apart]
        return (
            len(others) < self._bounds.writers
            and sum(others) + stream.size_bytes <= self._bounds.total_bytes
        )

    def _full(self, stream: Stream) -> Busy:
        held = sum(one.size_bytes for one in self._streams.values())
        return Busy(
            "There is no room for more records.",
            f"{stream.writer} has {len(stream.records)} with {stream.size_bytes:,} bytes; "
            f"{len(self._streams)} peers have {held:,} bytes here.",
            code="too-many-records",
        )

    def retire(self, now_ms: int) -> list[PeerId]:
        """Forgets writers that wrote nothing for long; returns them."""
        gone = [one.writer for one in self._streams.values() if retired(one.head, now_ms)]
        for writer in gone:
            self.drop(writer)
        return gone

    def drop(self, writer: PeerId) -> None:
        """Holds nothing of a writer any more."""
        self._streams.pop(writer, None)


def retired(head: Head, now_ms: int) -> bool:
    """Whether its writer has been silent for so long that it counts no more."""
    return head.at.ms < now_ms - RETIRED_MS
