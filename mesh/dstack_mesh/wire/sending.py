"""Brings trees of this peer's store to another peer: only what is missing there, manifest last."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

import grpc

from dstack_mesh.chunks.digest import split_digests
from dstack_mesh.chunks.manifest import chunk_sizes_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.ids import Digest
from dstack_mesh.v1 import transfer_pb2_grpc
from dstack_mesh.v1.transfer_pb2 import ManifestPiece, MissingRequest, PushRequest, PushResponse
from dstack_mesh.wire.bounds import ASK_SECONDS, WINDOW_BYTES, deadline
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.flat import SERVICE, Flat, write_push
from dstack_mesh.wire.overlap import read_ahead
from dstack_mesh.wire.packing import PIECE_BYTES, flat_packs
from dstack_mesh.wire.squeezing import Squeeze
from dstack_mesh.wire.stream import Stream

PushStream = Stream[PushRequest | Flat, PushResponse]

MISSING_DIGESTS = 65_536
"""Digests in one question."""


class _Lacking(NamedTuple):
    """Chunks that the peer lacks, and whether they may be brought compressed."""

    chunks: list[Digest]
    zstd: bool


class Sender:
    """Sends to one other peer. For one event loop; calls may run at the same time."""

    def __init__(
        self, channel: grpc.aio.Channel, store: ChunkStore, peer: str, idle_seconds: float
    ) -> None:
        """As a TransferClient's."""
        self._stub = transfer_pb2_grpc.TransferServiceStub(channel)
        # As the stub's own, but for what a message with a pack costs.
        self._pushes = channel.stream_stream(
            f"/{SERVICE}/Push", write_push, PushResponse.FromString
        )
        self._store = store
        self._peer = peer
        self._idle = idle_seconds

    async def send_tree(self, digest: Digest) -> int:
        """As `TransferClient.send_tree`."""
        encoded = await asyncio.to_thread(self._store.get_encoded, digest)
        sizes = await asyncio.to_thread(chunk_sizes_of, encoded)
        lacking = await self._lacking(digest, list(sizes))
        if lacking is None:
            return 0
        total = sum(sizes[chunk] for chunk in lacking.chunks)
        del sizes  # of a large tree it takes 30 MB
        await self._push(lacking, digest, encoded, total)
        return total

    async def _lacking(self, digest: Digest, chunks: Sequence[Digest]) -> _Lacking | None:
        """What the peer lacks; None if it has the manifest and so everything."""
        lacking: list[Digest] = []
        zstd = True
        for begin in range(0, max(len(chunks), 1), MISSING_DIGESTS):
            request = MissingRequest(
                chunk_digests=b"".join(chunks[begin : begin + MISSING_DIGESTS]),
                manifest_digests=digest,
            )
            with translated(self._peer):
                response = await self._stub.Missing(request, timeout=ASK_SECONDS)
            if not response.manifest_digests:
                return None
            lacking.extend(split_digests(response.chunk_digests))
            zstd = zstd and response.zstd
        return _Lacking(lacking, zstd)

    async def _push(self, lacking: _Lacking, digest: Digest, encoded: bytes, total: int) -> None:
        call = self._pushes(timeout=deadline(total + len(encoded)))
        stream: PushStream = Stream(call, self._peer, self._idle)
        under_way = 0
        durable = 0
        try:
            squeeze = Squeeze()
            made = flat_packs(self._store, lacking.chunks, squeeze if lacking.zstd else None)
            async with aclosing(read_ahead(made, ready=squeeze.ready)) as requests:
                async for request in requests:
                    await stream.write(request)
                    under_way += request.size_bytes
                    while under_way - durable > WINDOW_BYTES:
                        durable = (await stream.read()).durable_bytes
            for piece in _pieces(digest, encoded):
                await stream.write(PushRequest(manifest=piece))
            await stream.done_writing()
            while (await stream.read()).manifests == 0:
                pass
        finally:
            stream.close()


def _pieces(digest: Digest, encoded: bytes) -> Iterator[ManifestPiece]:
    for begin in range(0, len(encoded), PIECE_BYTES):
        end = begin + PIECE_BYTES
        yield ManifestPiece(
            digest=digest,
            offset_bytes=begin,
            data=encoded[begin:end],
            last=end >= len(encoded),
        )
