"""Streams of records as frames and back, and the client of an agent that has them."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping

import grpc

from dstack_mesh.faults import Invalid
from dstack_mesh.identity import is_id
from dstack_mesh.ids import PeerId
from dstack_mesh.records.port import Book, Received, Versions
from dstack_mesh.records.record import Delta, Head, Record, Version, head_of, record_of
from dstack_mesh.records.replica import BOUNDS
from dstack_mesh.signing import LONGEST_KEY_BYTES, LONGEST_SIGNATURE_BYTES, Signed
from dstack_mesh.v1 import records_pb2 as pb
from dstack_mesh.v1 import records_pb2_grpc as rpc
from dstack_mesh.wire.ending import answer_of
from dstack_mesh.wire.errors import translated

FRAME_BYTES = 64 * 1024
"""A frame is never larger."""

_ROOM_BYTES = 512
"""Of a frame, for its head and the lengths of its fields."""

MOST_STREAMS = 1024

EXCHANGE_SECONDS = 60.0
PUSH_SECONDS = 60.0


def frames(delta: Delta) -> Iterator[pb.RecordFrame]:
    """A delta cut into frames."""
    signed = delta.head.signed
    part, held, size = 0, list[pb.SignedRecord](), 0

    def frame(last: bool) -> pb.RecordFrame:
        return pb.RecordFrame(
            key=signed.key,
            head=signed.body,
            head_signature=signed.signature,
            records=held,
            part=part,
            last=last,
        )

    for record in delta.records:
        wire = pb.SignedRecord(body=record.body, signature=record.signature)
        room = wire.ByteSize() + 8
        if held and size + room > FRAME_BYTES - _ROOM_BYTES:
            yield frame(False)
            part, held, size = part + 1, [], 0
        held.append(wire)
        size += room
    yield frame(True)


class Assembly:
    """Puts the frames of one call together. Holds at most one stream, of bounded size.

    Args:
        book: Says which streams are news; frames of others are dropped as they come.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._head: Head | None = None
        self._wanted = False
        self._records: list[Record] = []
        self._size = 0
        self._part = 0

    def take(self, frame: pb.RecordFrame) -> Delta | None:
        """A whole delta after the last frame of a stream that is wanted. Raises Invalid."""
        if frame.ByteSize() > FRAME_BYTES:
            raise _wrong(f"It has {frame.ByteSize():,} bytes; {FRAME_BYTES:,} are allowed.")
        signed = _signed(frame)
        if self._head is None or frame.part == 0:
            self._begin(head_of(signed))
        assert self._head is not None
        if frame.part != self._part or signed.body != self._head.signed.body:
            raise _wrong(f"Part {self._part} of {self._head.writer} was to come.")
        self._part += 1
        if self._wanted:
            self._add(frame)
        return self._end() if frame.last else None

    def _begin(self, head: Head) -> None:
        self._head, self._wanted = head, self._book.wants(head)
        self._records, self._size, self._part = [], 0, 0

    def _add(self, frame: pb.RecordFrame) -> None:
        for wire in frame.records:
            if len(wire.signature) > LONGEST_SIGNATURE_BYTES:
                raise _wrong(f"A signature has {len(wire.signature)} bytes.")
            self._records.append(record_of(wire.body, wire.signature))
            self._size += len(wire.body)
        if len(self._records) > BOUNDS.records or self._size > BOUNDS.stream_bytes:
            raise _wrong(f"Its stream has more than {BOUNDS.records:,} records, or too many bytes.")

    def _end(self) -> Delta | None:
        head, wanted, records = self._head, self._wanted, tuple(self._records)
        self._head, self._records = None, []
        return Delta(head, records) if wanted and head is not None else None


def _signed(frame: pb.RecordFrame) -> Signed:
    if len(frame.key) > LONGEST_KEY_BYTES or len(frame.head_signature) > LONGEST_SIGNATURE_BYTES:
        raise _wrong(f"Its key and signature have {len(frame.key)} and "
                     f"{len(frame.head_signature)} bytes.")  # fmt: skip
    return Signed(frame.head, frame.key, frame.head_signature)


def _wrong(why: str) -> Invalid:
    return Invalid("A frame of records is not valid.", why, "", "record")


def versions_to_wire(versions: Mapping[PeerId, Version]) -> list[pb.StreamVersion]:
    return [
        pb.StreamVersion(writer=writer, incarnation=one.incarnation, seq=one.seq, tie=one.tie)
        for writer, one in versions.items()
    ][:MOST_STREAMS]


def versions_from_wire(wires: Iterable[pb.StreamVersion]) -> dict[PeerId, Version]:
    """Raises Invalid if a writer is none, or there are too many."""
    found: dict[PeerId, Version] = {}
    for wire in wires:
        if not is_id(wire.writer) or len(found) >= MOST_STREAMS:
            raise _wrong(f"{wire.writer[:40]!r} is no writer, or one of too many.")
        found[PeerId(wire.writer)] = Version(wire.incarnation, wire.seq, wire.tie)
    return found


class GrpcRecordPeer:
    """Implements `port.RecordPeer` on a channel. `name` is what errors call the other side."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = rpc.RecordServiceStub(channel)
        self._name = name

    async def exchange(self, known: Versions, book: Book) -> AsyncGenerator[Versions | Delta, None]:
        request = pb.RecordServiceExchangeRequest(known=versions_to_wire(known))
        assembly = Assembly(book)
        with translated(self._name):
            call = self._stub.Exchange(request, timeout=EXCHANGE_SECONDS)
            try:
                told = False
                async for response in call:
                    match response.WhichOneof("kind"):
                        case "known" if not told:
                            told = True  # once: who collects them has bounded memory
                            yield versions_from_wire(response.known.streams)
                        case "frame" if told:
                            delta = assembly.take(response.frame)
                            if delta is not None:
                                yield delta
                        case None:
                            continue
                        case _:
                            raise _wrong("What is known comes once, before all streams.")
            finally:
                call.cancel()

    async def push(self, deltas: Iterable[Delta]) -> Received:
        async def requests() -> AsyncGenerator[pb.RecordServicePushRequest, None]:
            for delta in deltas:
                for frame in frames(delta):
                    yield pb.RecordServicePushRequest(frame=frame)

        call = self._stub.Push(requests(), timeout=PUSH_SECONDS)
        response = await answer_of(call, self._name)
        return Received(response.news, response.behind)
