"""Messages that bring a pack, written and read without a copy of its bytes.

Protobuf copies a megabyte when a field is set, when a message is written, when it is read and each
time the field is looked at. A `FetchResponse` and
a `PushRequest` with a pack are the same few bytes of head and then the data, so they are joined and
cut here. What travels is what protobuf writes, byte for byte; what another writer puts into another
order is read by protobuf as ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dstack_mesh.ids import Digest
from dstack_mesh.v1.transfer_pb2 import FetchResponse, Pack, PushRequest

SERVICE = "dstack_mesh.v1.TransferService"
"""Whose two streams carry packs: `Fetch` and `Push`."""

_PACK, _DIGESTS, _SIZES, _DATA, _ZSTD = 0x0A, 0x0A, 0x12, 0x1A, 0x22
"""Tags: field 1 of both messages; fields 1 to 4 of a pack. All are followed by a length."""

_LONGEST_NUMBER = 5
"""Bytes of a length below 32 bits."""


@dataclass(frozen=True, slots=True)
class FlatPack:
    """A pack that was read; its parts may not fit each other. `data` keeps the message alive."""

    digests: bytes
    sizes_bytes: Sequence[int]
    data: memoryview
    zstd: bool = False
    """Whether `data` is compressed."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A message with a pack, ready to be sent."""

    encoded: bytes
    chunks: int
    size_bytes: int
    """Of the chunks, however they travel."""


def flat(
    chunks: Sequence[tuple[Digest, int]], pieces: Sequence[bytes], frame: bytes | None = None
) -> Flat:
    """A message with these chunks, whose bytes are the pieces one after the other; `frame` is the
    same compressed, and travels in their place."""
    total = sum(map(len, pieces))
    tag, sent = (_DATA, pieces) if frame is None else (_ZSTD, (frame,))
    size = total if frame is None else len(frame)
    head = Pack(
        digests=b"".join([digest for digest, _ in chunks]),
        sizes_bytes=[length for _, length in chunks],
    ).SerializeToString()
    # Protobuf leaves out a field that is empty.
    label = bytes((tag,)) + _number(size) if size else b""
    begin = bytes((_PACK,)) + _number(len(head) + len(label) + size)
    return Flat(b"".join([begin, head, label, *sent]), len(chunks), total)


def write_push(request: PushRequest | Flat) -> bytes:
    """What is sent of a request."""
    return request.encoded if isinstance(request, Flat) else request.SerializeToString()


def write_fetched(response: FetchResponse | Flat) -> bytes:
    """What is sent of a response."""
    return response.encoded if isinstance(response, Flat) else response.SerializeToString()


def read_push(encoded: bytes) -> PushRequest | FlatPack:
    """A request. Raises DecodeError if it is none."""
    pack = _cut(encoded)
    if pack is not None:
        return pack
    request = PushRequest.FromString(encoded)
    return _copied(request.pack) if request.HasField("pack") else request


def read_fetched(encoded: bytes) -> FlatPack:
    """A response. Raises DecodeError if it is none."""
    return _cut(encoded) or _copied(FetchResponse.FromString(encoded).pack)


def _copied(pack: Pack) -> FlatPack:
    zstd = bool(pack.zstd)
    return FlatPack(
        pack.digests, pack.sizes_bytes, memoryview(pack.zstd if zstd else pack.data), zstd
    )


def _cut(encoded: bytes) -> FlatPack | None:
    """The pack of a message that has nothing else, its data at the end; None for any other."""
    begin = _field(encoded, 0, _PACK)
    digests = _field(encoded, begin[0], _DIGESTS) if begin and begin[1] == len(encoded) else None
    sizes = _field(encoded, digests[1], _SIZES) if digests else None
    zstd = sizes is not None and encoded[sizes[1] : sizes[1] + 1] == bytes((_ZSTD,))
    data = _field(encoded, sizes[1], _ZSTD if zstd else _DATA) if sizes else None
    if not (begin and digests and sizes and data and data[1] == len(encoded)):
        return None
    head = Pack.FromString(encoded[begin[0] : sizes[1]])
    return FlatPack(head.digests, head.sizes_bytes, memoryview(encoded)[data[0] :], zstd)


def _field(encoded: bytes, at: int, tag: int) -> tuple[int, int] | None:
    """Where the field at a place begins and ends; None if it is another, or is cut off."""
    if encoded[at : at + 1] != bytes((tag,)):
        return None
    length = 0
    for place, byte in enumerate(encoded[at + 1 : at + 1 + _LONGEST_NUMBER]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            begin = at + 2 + place
            return (begin, begin + length) if begin + length <= len(encoded) else None
    return None


def _number(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
