"""Serves the chunks and manifests of a store.

A stream holds a bounded number of bytes: packs wait in short queues, and more is sent only while
the reader's credit lasts, so a slow reader costs the agent a few megabytes and nobody else
anything.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from dstack_agent.servicers.takers import Takers
from dstack_mesh.chunks.digest import DIGEST_BYTES, split_digests
from dstack_mesh.chunks.manifest import MANIFEST_BYTES
from dstack_mesh.chunks.room import check_reserve
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Damaged, Invalid
from dstack_mesh.ids import Digest
from dstack_mesh.v1.transfer_pb2 import (
    FetchRequest,
    ManifestPiece,
    ManifestRequest,
    ManifestResponse,
    MissingRequest,
    MissingResponse,
    PushRequest,
    PushResponse,
    TakeRequest,
    TakeResponse,
)
from dstack_mesh.v1.transfer_pb2_grpc import (
    TransferServiceServicer,
    add_TransferServiceServicer_to_server,
)
from dstack_mesh.wire.caller import Caller, Member, caller
from dstack_mesh.wire.flat import SERVICE, FlatPack, read_push, write_fetched
from dstack_mesh.wire.overlap import read_ahead
from dstack_mesh.wire.packing import PIECE_BYTES, flat_packs, unpack
from dstack_mesh.wire.squeezing import Squeeze

if TYPE_CHECKING:
    # Generic only in the stubs.
    from grpc.aio import ServicerContext

    Context = ServicerContext[Any, Any]

MOST_ASKED = 65_536
"""Digests in one question."""

MOST_WANTED = 65_536
"""Digests that a reader may have wanted and not received."""

MOST_PUSHES = 4
"""Streams of one peer that bring bytes at the same time; each may hold some 64 MiB. Others wait."""

MOST_FETCHES = 4
"""Streams of one peer that take bytes at the same time; each holds some 8 MiB, however slowly its
reader reads. Others wait."""

MOST_LISTS = 2
"""Lists of files that one peer reads at the same time; each is whole in memory, up to 256 MiB,
however slowly it is read. Others wait."""

MOST_QUESTIONS = 2
"""Questions of one peer that are looked up at the same time: the threads that do it serve
everybody. Others wait."""

MOST_CREDIT_BYTES = 64 << 20
"""Credit beyond this is not counted."""

BATCH_PACKS = 16
"""Packs that are made durable together, if so many wait; as many may wait meanwhile."""


class TransferServicer(TransferServiceServicer):
    """The TransferService over one store.

    Args:
        store: Where trees come from and go to.
        check_room: Raises Busy if the disk of a folder takes nothing more from others.
    """

    def __init__(
        self, store: ChunkStore, check_room: Callable[[Path], None] = check_reserve
    ) -> None:
        self._store = store
        self._check_room = check_room
        # As many entries as there are members.
        self._pushing: defaultdict[Caller, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(MOST_PUSHES)
        )
        self._fetching: defaultdict[Caller, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(MOST_FETCHES)
        )
        self._listing: defaultdict[Caller, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(MOST_LISTS)
        )
        self._asking: defaultdict[Caller, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(MOST_QUESTIONS)
        )
        self._squeezes: dict[Caller, Squeeze] = {}
        self._takers = Takers()

    async def Missing(self, request: MissingRequest, context: "Context") -> MissingResponse:
        chunks = _digests(request.chunk_digests, MOST_ASKED)
        manifests = _digests(request.manifest_digests, MOST_ASKED)
        async with self._asking[caller(context)]:
            return await asyncio.to_thread(self._missing, chunks, manifests)

    async def Push(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[PushRequest | FlatPack], context: "Context"
    ) -> None:
        session = await asyncio.to_thread(self._store.session)
        try:
            await self._take_in(request_iterator, context)
        finally:
            await asyncio.to_thread(session.close)

    async def _take_in(
        self, request_iterator: AsyncIterator[PushRequest | FlatPack], context: "Context"
    ) -> None:
        # Writes to the context rather than yields: a task group must not span a yield.
        intake = _Intake(self._store, self._check_room)
        async with self._pushing[caller(context)], asyncio.TaskGroup() as group:
            group.create_task(intake.listen(request_iterator))
            async for done in intake.keep():
                await context.write(done)

    async def Fetch(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[FetchRequest], context: "Context"
    ) -> None:
        wishes, who = _Wishes(), caller(context)
        async with self._fetching[who], asyncio.TaskGroup() as group:
            group.create_task(wishes.listen(request_iterator))
            # Agents fetch a tree in many calls of a few packs each.
            squeeze = self._squeezes[who] = Squeeze(self._squeezes.get(who))
            while wish := await wishes.next():
                made = flat_packs(self._store, wish.digests, squeeze if wish.zstd else None)
                async with aclosing(read_ahead(made, ready=squeeze.ready)) as responses:
                    async for response in responses:
                        await wishes.spend(response.size_bytes, response.chunks)
                        await context.write(response)

    async def Manifest(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: ManifestRequest, context: "Context"
    ) -> None:
        # Writes to the context rather than yields: whoever goes gives its place back at once.
        async with self._listing[caller(context)]:
            for digest in _digests(request.digest, 1):
                encoded = await asyncio.to_thread(self._store.get_encoded, digest)
                for begin in range(0, len(encoded), PIECE_BYTES):
                    piece = encoded[begin : begin + PIECE_BYTES]
                    await context.write(ManifestResponse(data=piece))

    async def Take(self, request: TakeRequest, context: "Context") -> TakeResponse:
        [digest] = _digests(request.digest, 1) or [Digest(b"")]
        who = caller(context)
        ours = who.peer_id if isinstance(who, Member) else None
        return TakeResponse(peer_ids=self._takers.join(digest, ours))

    def _missing(self, chunks: list[Digest], manifests: list[Digest]) -> MissingResponse:
        lacking = [digest for digest in manifests if self._store.missing_manifest(digest)]
        return MissingResponse(
            chunk_digests=b"".join(self._store.missing(chunks)),
            manifest_digests=b"".join(lacking),
            zstd=True,
        )


def add_transfer(servicer: TransferServicer, server: grpc.aio.Server) -> None:
    """Adds it to a server, as the generated function does, but for what messages with a pack
    cost."""
    generated = _Generated()
    add_TransferServiceServicer_to_server(servicer, generated)  # pyright: ignore[reportArgumentType]
    methods = generated.methods | {
        "Fetch": grpc.stream_stream_rpc_method_handler(
            servicer.Fetch, FetchRequest.FromString, write_fetched
        ),
        "Push": grpc.stream_stream_rpc_method_handler(
            servicer.Push, read_push, PushResponse.SerializeToString
        ),
    }
    # Twice, as generated code does it: a server looks into one of the two.
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_registered_method_handlers(SERVICE, methods)


class _Generated:
    """Takes down what the generated function would give a server."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods once more."""

    def add_registered_method_handlers(self, service: str, methods: dict[str, Any]) -> None:
        self.methods = methods


class _Wish(NamedTuple):
    """Chunks that a reader wants, and whether they may come compressed."""

    digests: list[Digest]
    zstd: bool


class _Wishes:
    """What a reader wants and how much it may be sent."""

    def __init__(self) -> None:
        self._wanted: deque[_Wish] = deque()
        self._open = 0
        self._credit = 0
        self._ended = False
        self._changed = asyncio.Event()

    async def listen(self, requests: AsyncIterator[FetchRequest]) -> None:
        """Takes requests until the reader wants no more. Raises Invalid if it wants too much."""
        async for request in requests:
            digests = _digests(request.want.digests, MOST_WANTED)
            self._open += len(digests)
            if self._open > MOST_WANTED:
                raise Invalid("Too many chunks are wanted at once.", f"{self._open:,} are open.")
            if digests:
                self._wanted.append(_Wish(digests, request.want.zstd))
            self._credit = min(self._credit + request.credit_bytes, MOST_CREDIT_BYTES)
            self._changed.set()
        self._ended = True
        self._changed.set()

    async def next(self) -> _Wish | None:
        """What is wanted next; None once the reader wants no more."""
        while not self._wanted:
            if self._ended:
                return None
            await self._change()
        return self._wanted.popleft()

    async def spend(self, size: int, chunks: int) -> None:
        """Waits until the reader has credit, then uses it. A pack may overdraw it once."""
        while self._credit <= 0 and not self._ended:
            await self._change()
        self._credit -= size
        self._open -= chunks

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class _Intake:
    """Packs and manifests on their way into the store; what arrives meanwhile is kept together."""

    def __init__(self, store: ChunkStore, check_room: Callable[[Path], None]) -> None:
        self._store = store
        self._check_room = check_room
        self._waiting: asyncio.Queue[PushRequest | FlatPack | None] = asyncio.Queue(BATCH_PACKS)
        self._manifest = bytearray()

    async def listen(self, requests: AsyncIterator[PushRequest | FlatPack]) -> None:
        """Takes requests, no faster than they are kept."""
        async for request in requests:
            await self._waiting.put(request)
        await self._waiting.put(None)

    async def keep(self) -> AsyncIterator[PushResponse]:
        """Says each time what is durable, until nothing more comes."""
        done = PushResponse()
        ended = False
        while not ended:
            batch = [await self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            ended = batch[-1] is None
            requests = [request for request in batch if request is not None]
            size, manifests = await asyncio.to_thread(self._take, requests)
            done.durable_bytes += size
            done.manifests += manifests
            if size or manifests:
                yield done

    def _take(self, requests: list[PushRequest | FlatPack]) -> tuple[int, int]:
        """Bytes and manifests of these requests, now durable. Raises Busy for a full disk."""
        self._check_room(self._store.folder)
        self._store.check_quota()
        chunks = [
            chunk
            for request in requests
            if isinstance(request, FlatPack)
            for chunk in unpack(request)
        ]
        self._store.put(chunks)
        pieces = [
            request.manifest
            for request in requests
            if isinstance(request, PushRequest) and request.HasField("manifest")
        ]
        manifests = sum(self._take_piece(piece) for piece in pieces)
        return sum(len(data) for _, data in chunks), manifests

    def _take_piece(self, piece: ManifestPiece) -> bool:
        """Adds a piece of a manifest; whether the manifest is whole and durable now."""
        if piece.offset_bytes != len(self._manifest):
            raise Invalid("A list of files came out of order.", f"At byte {piece.offset_bytes:,}.")
        if len(self._manifest) + len(piece.data) > MANIFEST_BYTES:
            raise Invalid("A list of files is too long.", f"At most {MANIFEST_BYTES:,} bytes.")
        self._manifest += piece.data
        if not piece.last:
            return False
        encoded = bytes(self._manifest)
        self._manifest.clear()
        if self._store.put_manifest(encoded) != piece.digest:
            raise Damaged("A list of files is damaged.", piece.digest.hex(), "Send it again.")
        return True


def _digests(joined: bytes, most: int) -> list[Digest]:
    if len(joined) % DIGEST_BYTES or len(joined) > most * DIGEST_BYTES:
        raise Invalid("These are no digests.", f"{len(joined):,} bytes.")
    return split_digests(joined)
