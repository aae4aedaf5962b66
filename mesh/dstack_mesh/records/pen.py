"""Writes one peer's own stream. Pure but for the signature: time comes in, a stream goes out."""

from collections.abc import Iterable

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.records.hybrid import Hybrid
from dstack_mesh.records.record import (
    HEAD,
    RECORD,
    Entry,
    Record,
    digest_of_leaves,
    encode_body,
    encode_head,
    head_of,
    record_of,
)
from dstack_mesh.records.stream import Stream, live
from dstack_mesh.signing import Signer

TOMBSTONE_MS = 86_400_000
"""What was taken back or has expired is kept so long, for peers that were away."""

_RANDOM_BITS = 20


@frozen
class Pen:
    """A writer's key and the incarnation that it writes in."""

    signer: Signer
    incarnation: int

    @property
    def writer(self) -> PeerId:
        return self.signer.peer_id

    def write(
        self, held: Stream | None, entries: Iterable[Entry], now: Hybrid, now_ms: int
    ) -> Stream:
        """The stream with entries added, each superseding what was said about the same thing.

        Args:
            now: Time of the change; later than everything in the stream.
            now_ms: The time of day, by which old tombstones are forgotten.
        """
        ours = held is not None and held.head.incarnation == self.incarnation
        before = held.head.seq if held is not None and ours else 0
        new = [
            self._record(entry, before + number, now)
            for number, entry in enumerate(entries, start=1)
        ]
        seq = before + max(len(new), 1)
        forgotten_ms = max(0, now_ms - TOMBSTONE_MS)
        records = live(held.records.values() if held is not None else (), new, forgotten_ms)
        digest = digest_of_leaves(each.leaf for each in records.values())
        body = encode_head((self.incarnation, seq), now, forgotten_ms, len(records), digest)
        size = sum(len(each.body) for each in records.values())
        return Stream(head_of(self.signer.sign(HEAD, body)), records, size)

    def _record(self, entry: Entry, seq: int, now: Hybrid) -> Record:
        body = encode_body(entry, (self.incarnation, seq), now)
        return record_of(body, self.signer.sign(RECORD, body).signature)


def next_incarnation(last: int, now_ms: int, random: int) -> int:
    """A number above the last one; two that begin from one copy of a disk take different ones.

    Args:
        random: Anything; its lowest 20 bits count.
    """
    return max(last + 1, (now_ms << _RANDOM_BITS) | (random & ((1 << _RANDOM_BITS) - 1)))
