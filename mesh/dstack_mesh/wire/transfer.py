"""Moves trees between this peer's store, or its folders, and another peer.

Only what is missing travels, every chunk is verified on arrival, and a transfer that broke is
simply begun again with what is missing then. Disk and network work at the same time: a few packs
wait between them, never more than `WINDOW_BYTES`.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import grpc

from dstack_mesh.chunks.batch import Batch
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import MANIFEST_BYTES, Manifest, chunk_sizes_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Damaged, TooLate
from dstack_mesh.ids import Digest
from dstack_mesh.v1 import transfer_pb2_grpc
from dstack_mesh.v1.transfer_pb2 import (
    FetchRequest,
    ManifestRequest,
    ManifestResponse,
    Want,
)
from dstack_mesh.wire.bounds import WINDOW_BYTES, deadline
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.flat import SERVICE, FlatPack, read_fetched
from dstack_mesh.wire.overlap import Hand, one_error
from dstack_mesh.wire.packing import open_pack, unpack
from dstack_mesh.wire.sending import Sender
from dstack_mesh.wire.stream import IDLE_SECONDS, Stream

if TYPE_CHECKING:
    from dstack_mesh.chunks.fetched import Fetched
    from dstack_mesh.chunks.receiving import Receiver

FetchStream = Stream[FetchRequest, FlatPack]

WANT_DIGESTS = 16_384
"""Digests in one wish; two wishes are out at a time."""

CREDIT_BYTES = WINDOW_BYTES // 4
"""Credit is given in steps of this: a message costs as much as half a megabyte of data."""

BATCH_PACKS = 16
"""Packs that are made durable together, if so many wait."""


class TransferClient:
    """One other peer's chunks and manifests. For one event loop; calls may run at the same time."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        store: ChunkStore,
        peer: str = "The agent",
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Costs nothing until used. `peer` is what errors call the other side, as "ws-2"."""
        self._stub = transfer_pb2_grpc.TransferServiceStub(channel)
        # As the stub's own, but for what a message with a pack costs.
        self._fetches = channel.stream_stream(
            f"/{SERVICE}/Fetch", FetchRequest.SerializeToString, read_fetched
        )
        self._sender = Sender(channel, store, peer, idle_seconds)
        self._store = store
        self._peer = peer
        self._idle = idle_seconds

    async def send_tree(self, digest: Digest) -> int:
        """Brings a tree from our store to the peer, where it is durable on return.

        Returns:
            Bytes of chunks that were sent; 0 if the peer had everything.

        Raises:
            Missing: Our store has not the tree.
            Unreachable: The peer went away; what it acknowledged stays there.
        """
        return await self._sender.send_tree(digest)

    async def fetch_tree(self, digest: Digest) -> int:
        """Brings a tree from the peer to our store, where it is durable on return.

        Returns:
            Bytes of chunks that were received; 0 if we had everything.

        Raises:
            Missing: The peer has not the tree, or not all of it.
            Damaged: A chunk arrived damaged.
            Unreachable: The peer went away; what was received stays.
        """
        if not await asyncio.to_thread(self._store.missing_manifest, digest):
            return 0
        encoded = await self.fetch_encoded(digest)
        sizes = await asyncio.to_thread(chunk_sizes_of, encoded)
        lacking = await asyncio.to_thread(self._store.missing, sizes)
        total = sum(sizes[chunk] for chunk in lacking)
        del sizes  # of a large tree it takes 30 MB
        batch = Batch(self._store)

        def keep(packs: Sequence[FlatPack]) -> int:
            chunks = [chunk for pack in packs for chunk in unpack(pack)]
            for chunk, data in chunks:
                batch.add_foreign(chunk, data)
            return sum(len(data) for _, data in chunks)

        hand = Hand()
        try:
            await self.fetch_chunks(lacking, total, keep, hand)
        finally:
            # What arrived before a failure need not travel again.
            await hand.end(batch.end)
        await asyncio.to_thread(self._store.put_manifest, encoded)
        return total

    async def fetch_manifest(self, digest: Digest) -> Manifest:
        """What a tree of the peer holds. It is not kept."""
        if not await asyncio.to_thread(self._store.missing_manifest, digest):
            return await asyncio.to_thread(self._store.get_manifest, digest)
        return await asyncio.to_thread(Manifest.decode, await self.fetch_encoded(digest))

    async def fetch_into(
        self,
        digest: Digest,
        target: Path,
        prefix: str = "",
        on_bytes: Callable[[int], None] | None = None,
    ) -> "Fetched":
        """Brings a tree of the peer, or what is below `prefix`, straight into files; durable on
        return. What such a call laid there before and nobody changed since stays as it is.

        Args:
            target: The folder to lay a folder out in. For a file, its new path or a folder for it.
            prefix: A file or folder of the tree; "" is all of it.
            on_bytes: Called, in a thread, with the bytes written each time some were.

        Raises:
            Missing: The peer has not the tree, or it has nothing of that name.
            Damaged: A chunk arrived damaged.
            Busy: Our disk is full.
            Unreachable: The peer went away; what came need not travel again.
        """
        # Here, because `dstack run`, which starts faster without it, fetches no files.
        from dstack_mesh.chunks.receiving import Receiver
        from dstack_mesh.chunks.rescuing import rescue

        manifest = await self.fetch_manifest(digest)
        told = on_bytes or _nobody
        hand = Hand()
        try:
            keeping = self._store.cache, self._store.drafts.of(digest)
            receiver = await hand.do(Receiver, manifest, target, prefix, *keeping)
        except BaseException:
            hand.close()
            raise
        try:
            told(receiver.kept_bytes)
            await hand.do(receiver.reuse, told)
            wanted = receiver.wanted
            lacking = await hand.do(self._store.missing, wanted)
            if len(lacking) < len(wanted):
                here = set(wanted).difference(lacking)
                ours = [chunk for chunk in wanted if chunk in here]
                await hand.do(_copy, self._store, ours, receiver, told)

            def write(packs: Sequence[FlatPack]) -> int:
                return sum(_take(receiver, pack, told) for pack in packs)

            total = receiver.wanted_bytes(lacking)
            await self.fetch_chunks(lacking, total, write, hand)
            return await hand.do(receiver.finish, total)
        except BaseException:
            await hand.do(rescue, receiver, self._store)
            raise
        finally:
            # On the same thread, so after a write that is still going on.
            await hand.end(receiver.close)

    async def fetch_encoded(self, digest: Digest) -> bytes:
        """A manifest's encoding, verified. Raises Missing, Damaged, Unreachable."""
        encoded = bytearray()
        request = ManifestRequest(digest=digest)
        with translated(self._peer):
            call = self._stub.Manifest(request, timeout=deadline(MANIFEST_BYTES))
            try:
                while len(encoded) <= MANIFEST_BYTES:
                    async with asyncio.timeout(self._idle):
                        response = await call.read()
                    if response is grpc.aio.EOF:
                        break
                    encoded += cast(ManifestResponse, response).data
            except TimeoutError as error:
                raise TooLate(f"{self._peer} sent nothing for {self._idle:.0f} s.") from error
            finally:
                call.cancel()
        if digest_of(encoded) != digest:
            raise Damaged(f"A list of files from {self._peer} is damaged.", digest.hex())
        return bytes(encoded)

    async def fetch_chunks(
        self,
        digests: Sequence[Digest],
        total: int,
        take: Callable[[Sequence[FlatPack]], int],
        hand: Hand,
    ) -> None:
        """Receives chunks in the order given; `take` has them, not verified, in the thread of
        `hand`, and says how many bytes they were. Errors as `fetch_tree`."""
        if not digests:
            return
        stream = Stream(self._fetches(timeout=deadline(total)), self._peer, self._idle)
        arrived: asyncio.Queue[FlatPack | None] = asyncio.Queue(BATCH_PACKS)
        try:
            with one_error():
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._receive(stream, digests, arrived))
                    group.create_task(self._consume(stream, digests, arrived, take, hand))
        finally:
            stream.close()

    async def _receive(
        self,
        stream: FetchStream,
        digests: Sequence[Digest],
        arrived: "asyncio.Queue[FlatPack | None]",
    ) -> None:
        """Passes packs on until all chunks are here, in the order wanted."""
        position = 0
        while position < len(digests):
            pack = await stream.read()
            count = len(pack.sizes_bytes)
            expected = b"".join(digests[position : position + count])
            if count == 0 or pack.digests != expected:
                raise Damaged(f"{self._peer} sent other chunks than were asked for.")
            position += count
            await arrived.put(pack)
        await arrived.put(None)

    async def _consume(
        self,
        stream: FetchStream,
        digests: Sequence[Digest],
        arrived: "asyncio.Queue[FlatPack | None]",
        take: Callable[[Sequence[FlatPack]], int],
        hand: Hand,
    ) -> None:
        """Asks for chunks, takes what arrives and gives credit for what was taken."""
        asked, taken, credit = 0, 0, WINDOW_BYTES
        while True:
            if asked < len(digests) and asked - taken < WANT_DIGESTS:
                want = Want(digests=b"".join(digests[asked : asked + WANT_DIGESTS]), zstd=True)
                await stream.write(FetchRequest(want=want, credit_bytes=credit))
                asked, credit = asked + WANT_DIGESTS, 0
                continue
            if credit >= CREDIT_BYTES:
                await stream.write(FetchRequest(credit_bytes=credit))
                credit = 0
            packs = await _waiting(arrived)
            if packs:
                credit += await hand.do(take, packs)
                taken += sum(len(pack.sizes_bytes) for pack in packs)
            if len(packs) == 0 or taken == len(digests):
                await stream.done_writing()
                return


async def _waiting(arrived: "asyncio.Queue[FlatPack | None]") -> list[FlatPack]:
    """What has arrived: at least one pack, or nothing at the end."""
    packs: list[FlatPack] = []
    item = await arrived.get()
    while item is not None:
        packs.append(item)
        if len(packs) == BATCH_PACKS or arrived.empty():
            break
        item = arrived.get_nowait()
    return packs


def _take(receiver: "Receiver", pack: FlatPack, told: Callable[[int], None]) -> int:
    digests, data = open_pack(pack)
    receiver.take(digests, data)
    told(len(data))
    return len(data)


def _copy(
    store: ChunkStore, digests: Sequence[Digest], receiver: "Receiver", told: Callable[[int], None]
) -> None:
    """Takes from our own store what it has."""
    for run, data in store.read_runs(digests):
        receiver.take([digest for digest, _ in run], memoryview(data))
        told(len(data))


def _nobody(_: int) -> None:
    """Tells nobody how far it is."""
