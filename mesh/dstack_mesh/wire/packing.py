"""Packs: chunks side by side in one message of about 1 MiB, which is what gRPC carries fastest."""

from collections.abc import Iterator, Sequence

from dstack_mesh.chunks.digest import DIGEST_BYTES, split_digests
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Digest
from dstack_mesh.v1.transfer_pb2 import Pack

PACK_BYTES = 1 << 20
"""Data of a full pack."""

LARGEST_PACK_BYTES = 2 << 20
"""A pack with more is refused."""


def pack_chunks(store: ChunkStore, digests: Sequence[Digest]) -> Iterator[Pack]:
    """The chunks in the order given, verified, as packs; each `next` reads one from disk.

    Raises:
        Missing: One is not here.
        Damaged: One is damaged.
    """
    gathered: list[tuple[list[tuple[Digest, int]], bytes]] = []
    size = 0
    for run, data in store.read_runs(digests, PACK_BYTES):
        if gathered and size + len(data) > PACK_BYTES:
            yield _pack(gathered)
            gathered, size = [], 0
        gathered.append((run, data))
        size += len(data)
    if gathered:
        yield _pack(gathered)


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


def _pack(gathered: list[tuple[list[tuple[Digest, int]], bytes]]) -> Pack:
    chunks = [chunk for run, _ in gathered for chunk in run]
    return Pack(
        digests=b"".join(digest for digest, _ in chunks),
        sizes_bytes=[size for _, size in chunks],
        data=gathered[0][1] if len(gathered) == 1 else b"".join(data for _, data in gathered),
    )
