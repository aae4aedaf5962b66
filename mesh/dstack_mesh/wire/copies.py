"""What another peer has: single chunks and manifests, for who has lost them, not verified here."""

from collections.abc import AsyncIterator, Sequence

import grpc

from dstack_mesh.chunks.digest import split_digests
from dstack_mesh.chunks.manifest import MANIFEST_BYTES
from dstack_mesh.faults import Damaged
from dstack_mesh.ids import Digest
from dstack_mesh.v1 import transfer_pb2_grpc
from dstack_mesh.v1.transfer_pb2 import FetchRequest, ManifestRequest, MissingRequest, Want
from dstack_mesh.wire.errors import translated

CHUNK_SECONDS = 10.0
MANIFEST_SECONDS = 60.0
QUESTION_SECONDS = 3.0

MOST_ASKED = 4096
"""Trees in one question."""


async def fetch_chunk(channel: grpc.aio.Channel, digest: Digest, peer: str) -> bytes:
    """A chunk as the peer gives it.

    Raises:
        Missing: The peer has it not.
        Damaged: Its copy is damaged too.
        Unreachable: It does not answer.
    """

    async def wish() -> AsyncIterator[FetchRequest]:
        yield FetchRequest(want=Want(digests=digest), credit_bytes=1)

    with translated(peer):
        stub = transfer_pb2_grpc.TransferServiceStub(channel)
        async for response in stub.Fetch(wish(), timeout=CHUNK_SECONDS):
            return bytes(response.pack.data)
    raise Damaged(f"{peer} sent nothing.", digest.hex())


async def lacking_trees(
    channel: grpc.aio.Channel, digests: Sequence[Digest], peer: str
) -> frozenset[Digest]:
    """Those that the peer says it has not. Raises Unreachable, TooLate."""
    lacking: set[Digest] = set()
    stub = transfer_pb2_grpc.TransferServiceStub(channel)
    for begin in range(0, len(digests), MOST_ASKED):
        request = MissingRequest(manifest_digests=b"".join(digests[begin : begin + MOST_ASKED]))
        with translated(peer):
            answer = await stub.Missing(request, timeout=QUESTION_SECONDS)
        lacking.update(split_digests(answer.manifest_digests))
    return frozenset(lacking.intersection(digests))


async def has_tree(channel: grpc.aio.Channel, digest: Digest, peer: str) -> bool:
    """Whether the peer says that it has a tree. Raises Unreachable, TooLate."""
    with translated(peer):
        stub = transfer_pb2_grpc.TransferServiceStub(channel)
        request = MissingRequest(manifest_digests=digest)
        answer = await stub.Missing(request, timeout=QUESTION_SECONDS)
    return not answer.manifest_digests


async def fetch_encoded(channel: grpc.aio.Channel, digest: Digest, peer: str) -> bytes:
    """A manifest's encoding as the peer gives it; errors as `fetch_chunk`."""
    encoded = bytearray()
    with translated(peer):
        stub = transfer_pb2_grpc.TransferServiceStub(channel)
        call = stub.Manifest(ManifestRequest(digest=digest), timeout=MANIFEST_SECONDS)
        async for response in call:
            encoded += response.data
            if len(encoded) > MANIFEST_BYTES:
                call.cancel()
                raise Damaged(f"{peer} sent more than a list of files may have.", digest.hex())
    return bytes(encoded)
