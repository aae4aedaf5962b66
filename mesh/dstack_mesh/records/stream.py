"""The stream of one writer as a peer holds it: its newest head and the records this names. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dstack_mesh.ids import PeerId
from dstack_mesh.records.record import (
    NOTHING,
    Delta,
    Head,
    Name,
    Place,
    Record,
    Version,
    digest_of_leaves,
)


@dataclass(frozen=True, slots=True)
class Stream:
    """Only ever replaced as a whole.

    Attributes:
        records: The live ones by what they are about.
        size_bytes: Of their bodies.
    """

    head: Head
    records: Mapping[Name, Record]
    size_bytes: int = field(compare=False, default=0)

    @property
    def version(self) -> Version:
        return self.head.version

    @property
    def writer(self) -> PeerId:
        return self.head.writer

    def since(self, version: Version) -> Delta:
        """What a peer lacks that holds this version; everything for one that it cannot hold."""
        place = version.incarnation, version.seq
        known = NOTHING < version <= self.version
        lacking = (r for r in self.records.values() if not known or r.place > place)
        return Delta(self.head, tuple(sorted(lacking, key=place_of)))


def place_of(record: Record) -> Place:
    """For sorting."""
    return record.place


def live(held: Iterable[Record], new: Iterable[Record], forgotten_ms: int) -> dict[Name, Record]:
    """The newest record about each thing, without those that their writer has forgotten."""
    newest: dict[Name, Record] = {record.entry.name: record for record in held}
    for record in new:
        earlier = newest.get(record.entry.name)
        if earlier is None or record.place > earlier.place:
            newest[record.entry.name] = record
    return {name: each for name, each in newest.items() if not each.forgotten(forgotten_ms)}


def stream_of(held: Stream | None, delta: Delta) -> Stream | None:
    """The stream at the delta's head; None if the delta does not add up to it.

    Tried with what is held, and by itself: whoever sent it need not know what we hold.
    """
    head = delta.head
    bases = ((held.records.values(),) if held is not None else ()) + ((),)
    for base in bases:
        records = live(base, delta.records, head.forgotten_ms)
        if len(records) != head.records:
            continue
        if digest_of_leaves(record.leaf for record in records.values()) == head.digest:
            return Stream(head, records, sum(len(each.body) for each in records.values()))
    return None
