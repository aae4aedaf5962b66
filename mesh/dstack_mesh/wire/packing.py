"""Packs: chunks side by side in one message of about 1 MiB, which is what gRPC carries fastest."""

from collections.abc import Iterator, Sequence

from dstack_mesh.chunks.digest import DIGEST_BYTES, split_digests
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Digest
from dstack_mesh.v1.transfer_pb2 import FetchResponse, Pack, PushRequest

PACK_BYTES = 1 << 20
"""Data of a full pack."""

LARGEST_PACK_BYTES = 2 << 20
"""A pack with more is refused."""

_Gathered = list[tuple[list[tuple[Digest, int]], bytes]]


def pack_chunks(store: ChunkStore, digests: Sequence[Digest]) -> Iterator[Pack]:
    """The chunks in the order given, verified, as packs; each `next` reads one from disk.

    Raises:
        Missing: One is not here.
        Damaged: One is damaged.
    """
    for gathered in _gather(store, digests):
        pack = Pack()
        _fill(pack, gathered)
        yield pack


def fetch_responses(store: ChunkStore, digests: Sequence[Digest]) -> Iterator[FetchResponse]:
    """The same, each in a message of its own; a pack that is made first would be copied into it."""
    for gathered in _gather(store, digests):
        response = FetchResponse()
        _fill(response.pack, gathered)
        yield response


def push_requests(store: ChunkStore, digests: Sequence[Digest]) -> Iterator[PushRequest]:
    """The same for the other direction."""
    for gathered in _gather(store, digests):
        request = PushRequest()
        _fill(request.pack, gathered)
        yield request


def unpack(pack: Pack) -> list[tuple[Digest, memoryview]]:
    """The chunks of a pack, not verified yet.

    Raises:
        Invalid: Its parts do not fit each other.
    """
    digests, data = open_pack(pack)
    view = memoryview(data)
    chunks: list[tuple[Digest, memoryview]] = []
    at = 0
    for digest, size in zip(digests, pack.sizes_bytes, strict=True):
        chunks.append((digest, view[at : at + size]))
        at += size
    return chunks


def open_pack(pack: Pack) -> tuple[list[Digest], bytes]:
    """Digests and bytes of a pack whose sizes are right; raises Invalid as `unpack` does."""
    joined, data = pack.digests, pack.data
    if len(joined) != DIGEST_BYTES * len(pack.sizes_bytes):
        raise Invalid("A pack has not one size for each digest.")
    if sum(pack.sizes_bytes) != len(data) or len(data) > LARGEST_PACK_BYTES:
        raise Invalid("A pack has not the size that it says.", f"{len(data):,} bytes of data.")
    return split_digests(joined), data


def _gather(store: ChunkStore, digests: Sequence[Digest]) -> Iterator[_Gathered]:
    """Runs of chunks that fit into one pack together."""
    gathered: _Gathered = []
    size = 0
    for run, data in store.read_runs(digests, PACK_BYTES):
        if gathered and size + len(data) > PACK_BYTES:
            yield gathered
            gathered, size = [], 0
        gathered.append((run, data))
        size += len(data)
    if gathered:
        yield gathered


def _fill(pack: Pack, gathered: _Gathered) -> None:
    pack.digests = b"".join(digest for run, _ in gathered for digest, _ in run)
    pack.sizes_bytes.extend([size for run, _ in gathered for _, size in run])
    pack.data = gathered[0][1] if len(gathered) == 1 else b"".join(data for _, data in gathered)
