"""Packs: chunks side by side in one message."""

from collections.abc import Iterator, Sequence

from dstack_mesh.chunks.digest import DIGEST_BYTES, split_digests
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Digest
from dstack_mesh.v1.transfer_pb2 import Pack
from dstack_mesh.wire.flat import Flat, FlatPack, flat
from dstack_mesh.wire.squeezing import Squeeze, unsqueezed

PACK_BYTES = 2 << 20
"""Data of a full pack. Larger: fewer messages, each of which costs both loops some work;
smaller: less memory. gRPC takes no message above 4 MiB."""

PIECE_BYTES = 1 << 20
"""Data of a piece of a manifest."""

LARGEST_PACK_BYTES = 2 << 20
"""A pack with more is refused."""

_Gathered = tuple[list[tuple[Digest, int]], list[bytes]]


def pack_chunks(store: ChunkStore, digests: Sequence[Digest]) -> Iterator[Pack]:
    """The chunks in the order given, verified, as packs; each `next` reads one from disk.

    Raises:
        Missing: One is not here.
        Damaged: One is damaged.
    """
    for chunks, pieces in _gather(store, digests):
        yield Pack(
            digests=b"".join(digest for digest, _ in chunks),
            sizes_bytes=[size for _, size in chunks],
            data=b"".join(pieces),
        )


def flat_packs(
    store: ChunkStore, digests: Sequence[Digest], squeeze: Squeeze | None = None
) -> Iterator[Flat]:
    """The same, each as a message that is ready to be sent, compressed if `squeeze` says so."""
    for chunks, pieces in _gather(store, digests):
        yield flat(chunks, pieces, squeeze.squeezed(pieces) if squeeze else None)


def unpack(pack: Pack | FlatPack) -> list[tuple[Digest, memoryview]]:
    """The chunks of a pack, not verified yet.

    Raises:
        Invalid: Its parts do not fit each other.
    """
    digests, data = open_pack(pack)
    chunks: list[tuple[Digest, memoryview]] = []
    at = 0
    for digest, size in zip(digests, pack.sizes_bytes, strict=True):
        chunks.append((digest, data[at : at + size]))
        at += size
    return chunks


def open_pack(pack: Pack | FlatPack) -> tuple[list[Digest], memoryview]:
    """Digests and bytes of a pack whose sizes are right; raises Invalid as `unpack` does."""
    joined, data, total = pack.digests, memoryview(pack.data), sum(pack.sizes_bytes)
    if len(joined) != DIGEST_BYTES * len(pack.sizes_bytes):
        raise Invalid("A pack has not one size for each digest.")
    if total > LARGEST_PACK_BYTES:
        raise Invalid("A pack is too large.", f"{total:,} bytes of data.")
    if isinstance(pack, FlatPack) and pack.zstd:
        data = unsqueezed(data, total)
    if total != len(data):
        raise Invalid("A pack has not the size that it says.", f"{len(data):,} bytes of data.")
    return split_digests(joined), data


def _gather(store: ChunkStore, digests: Sequence[Digest]) -> Iterator[_Gathered]:
    """Runs of chunks that fit into one pack together."""
    chunks: list[tuple[Digest, int]] = []
    pieces: list[bytes] = []
    size = 0
    for run, data in store.read_runs(digests, PACK_BYTES):
        if pieces and size + len(data) > PACK_BYTES:
            yield chunks, pieces
            chunks, pieces, size = [], [], 0
        chunks.extend(run)
        pieces.append(data)
        size += len(data)
    if pieces:
        yield chunks, pieces
