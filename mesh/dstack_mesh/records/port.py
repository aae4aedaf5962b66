"""The border between spreading records and the network."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Protocol

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.records.record import Delta, Head, Version
from dstack_mesh.records.replica import Outcome

Versions = Mapping[PeerId, Version]


@frozen
class Received:
    """What became of what was pushed. `behind`: something did not fit, and the other side asks."""

    news: int
    behind: bool


class RecordPeer(Protocol):
    """Another agent; `dstack_mesh.wire.records.GrpcRecordPeer` reaches it over gRPC."""

    def exchange(self, known: Versions, book: "Book") -> AsyncGenerator["Versions | Delta", None]:
        """First how far the peer has the streams, then what we lack. Raises MeshError.

        Streams that the book does not want are left out before they cost memory.
        """
        ...

    async def push(self, deltas: Iterable[Delta]) -> Received:
        """Brings streams to the peer. Raises MeshError."""
        ...


class Book(Protocol):
    """What is held here, for those who bring and fetch."""

    def wants(self, head: Head) -> bool:
        """Whether this version of a stream would be news."""
        ...

    def versions(self) -> Versions:
        """How far each stream is held."""
        ...

    def lacking(self, known: Versions) -> Iterable[Delta]:
        """What somebody lacks who holds these versions."""
        ...

    async def take(self, delta: Delta, source: PeerId | None) -> Outcome:
        """Takes a stream over that somebody brought. Raises Damaged for one that nobody signed."""
        ...
