"""Chunks that a reader wants on the stream on which it follows a job: a pack at a time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from dstack_agent.servicers.pump import Send
from dstack_agent.servicers.share import Share
from dstack_mesh.chunks.digest import DIGEST_BYTES, split_digests
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Invalid
from dstack_mesh.v1 import run_pb2, transfer_pb2
from dstack_mesh.wire.packing import pack_chunks


class Delivery:
    """Sends what one stream wants, in the order in which it was asked for.

    Args:
        store: Where the chunks are.
        share: Of the peer whose stream it is.
        send: Writes to the stream.
    """

    def __init__(self, store: ChunkStore, share: Share, send: Send) -> None:
        self._store = store
        self._share = share
        self._send = send
        self._wanted: deque[bytes] = deque()
        self._open = 0
        self._sending = False

    def want(self, digests: bytes, group: asyncio.TaskGroup) -> None:
        """Adds chunks, by their joined digests. Raises Invalid, or Busy for too many."""
        if len(digests) % DIGEST_BYTES:
            raise Invalid("These are no digests.", f"{len(digests):,} bytes.")
        if not digests:
            return
        self._count(len(digests) // DIGEST_BYTES)
        self._wanted.append(digests)
        if not self._sending:
            self._sending = True
            group.create_task(self._send_all())

    def close(self) -> None:
        """Forgets what was not sent."""
        self._count(-self._open)

    def _count(self, chunks: int) -> None:
        self._share.want(chunks)
        self._open += chunks

    async def _send_all(self) -> None:
        async with self._share.deliveries:
            while self._wanted:
                digests = self._wanted.popleft()
                async for pack in self._packs(digests):
                    await self._send(run_pb2.AttachResponse(pack=pack))
                self._count(-(len(digests) // DIGEST_BYTES))
        self._sending = False

    async def _packs(self, digests: bytes) -> AsyncIterator[transfer_pb2.Pack]:
        packs = pack_chunks(self._store, split_digests(digests))
        while (pack := await asyncio.to_thread(next, packs, None)) is not None:
            yield pack
