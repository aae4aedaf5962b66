"""Messages with a pack are what protobuf writes and reads, byte for byte."""

from collections.abc import Sequence

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.ids import Digest
from dstack_mesh.v1 import transfer_pb2
from dstack_mesh.v1.transfer_pb2 import FetchResponse, ManifestPiece, Pack, PushRequest
from dstack_mesh.wire.flat import SERVICE, FlatPack, flat, read_fetched, read_push, write_push

CHUNKS = st.lists(st.tuples(st.binary(min_size=32, max_size=32).map(Digest), st.binary()))


def of_protobuf(chunks: Sequence[tuple[Digest, bytes]]) -> Pack:
    return Pack(
        digests=b"".join(digest for digest, _ in chunks),
        sizes_bytes=[len(data) for _, data in chunks],
        data=b"".join(data for _, data in chunks),
    )


def parts(pack: Pack | FlatPack) -> tuple[bytes, list[int], bytes, bool]:
    """As they are read: of a pack that has both, what is compressed counts."""
    zstd = pack.zstd if isinstance(pack, FlatPack) else bool(pack.zstd)
    data = pack.zstd if isinstance(pack, Pack) and zstd else pack.data
    return pack.digests, list(pack.sizes_bytes), bytes(data), zstd


@given(CHUNKS)
def test_what_is_written_is_what_protobuf_writes(chunks: list[tuple[Digest, bytes]]) -> None:
    made = flat([(name, len(data)) for name, data in chunks], [data for _, data in chunks])
    pack = of_protobuf(chunks)
    assert write_push(made) == PushRequest(pack=pack).SerializeToString()
    assert write_push(made) == FetchResponse(pack=pack).SerializeToString()
    assert (made.chunks, made.size_bytes) == (len(chunks), len(pack.data))


@given(CHUNKS, st.binary(min_size=1))
def test_what_is_compressed_travels_in_place_of_the_data(
    chunks: list[tuple[Digest, bytes]], frame: bytes
) -> None:
    pieces = [data for _, data in chunks]
    made = flat([(name, len(data)) for name, data in chunks], pieces, frame)
    pack = of_protobuf(chunks)
    pack.ClearField("data")
    pack.zstd = frame
    assert write_push(made) == PushRequest(pack=pack).SerializeToString()
    assert (made.chunks, made.size_bytes) == (len(chunks), sum(map(len, pieces)))
    assert parts(read_fetched(made.encoded)) == parts(pack)


@given(CHUNKS)
def test_what_protobuf_writes_is_read(chunks: list[tuple[Digest, bytes]]) -> None:
    pack = of_protobuf(chunks)
    assert parts(read_fetched(FetchResponse(pack=pack).SerializeToString())) == parts(pack)
    pushed = read_push(PushRequest(pack=pack).SerializeToString())
    assert isinstance(pushed, FlatPack)
    assert parts(pushed) == parts(pack)


def test_megabytes_are_not_copied() -> None:
    data = bytes(2 << 20)
    encoded = flat([(Digest(bytes(32)), len(data))], [data]).encoded
    assert read_fetched(encoded).data.obj is encoded


def test_fields_in_another_order_are_read() -> None:
    pack = of_protobuf([(Digest(b"d" * 32), b"bytes")])
    last_first = (
        Pack(data=pack.data).SerializeToString()
        + Pack(digests=pack.digests, sizes_bytes=pack.sizes_bytes).SerializeToString()
    )
    assert parts(read_fetched(bytes((0x0A, len(last_first))) + last_first)) == parts(pack)


def test_a_piece_of_a_manifest_stays_what_it_is() -> None:
    request = PushRequest(manifest=ManifestPiece(data=b"list", last=True))
    assert read_push(write_push(request)) == request


@given(st.binary(max_size=200), CHUNKS, st.binary(), st.integers(0, 300))
def test_nothing_is_read_that_protobuf_does_not_read(
    noise: bytes, chunks: list[tuple[Digest, bytes]], frame: bytes, cut: int
) -> None:
    pack = of_protobuf(chunks)
    pack.zstd = frame
    whole = FetchResponse(pack=pack).SerializeToString()
    for encoded in (noise, whole[:cut], whole[:cut] + noise):
        try:
            expected = parts(FetchResponse.FromString(encoded).pack)
        except DecodeError:
            with pytest.raises(DecodeError):
                read_fetched(encoded)
        else:
            assert parts(read_fetched(encoded)) == expected


def test_the_service_is_the_one_of_the_protocol() -> None:
    service = transfer_pb2.DESCRIPTOR.services_by_name["TransferService"]
    assert service.full_name == SERVICE
    assert {method.name for method in service.methods if method.client_streaming} == {
        "Fetch",
        "Push",
    }
