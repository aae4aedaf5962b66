"""Brings one tree from several peers at once: all that have it, and those that bring it too.

Each chunk is verified against its digest, whoever gave it. Who fails is asked no more, and the
others go on; what arrived is kept. `chunks.sharing` decides who is asked for what.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import Any

import grpc

from dstack_mesh.chunks.batch import Batch
from dstack_mesh.chunks.digest import split_digests
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.sharing import Piece, Sharing, cut
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Busy, Damaged, MeshError, Missing, Refused, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.v1 import transfer_pb2_grpc
from dstack_mesh.v1.transfer_pb2 import MissingRequest, TakeRequest
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.flat import FlatPack
from dstack_mesh.wire.overlap import Hand, one_error
from dstack_mesh.wire.packing import unpack
from dstack_mesh.wire.transfer import TransferClient

ASK_SECONDS = 0.3
"""How often others are asked what they have by now."""

QUICK_SECONDS = 10.0
"""Deadline of such a question."""

MEET_SECONDS = 2.0
"""How long those who do not answer hold up the others at the beginning."""

STREAMS = 2
"""Pieces that one peer is asked for at a time: while one is written, the next one travels."""

MOST_TAKERS = 16
"""Others that are asked for pieces."""

SOON_SECONDS = (0.05, 0.1, 0.2, 0.4)
LATER_SECONDS = 1.0
"""How often it is looked who else brings it: several jobs often begin at the same moment."""

IDLE_SECONDS = 60.0
"""If nothing comes from anybody for so long, who is busy is not waited for any more, nor is who
brings it too. Shorter: a crowd at one holder fails; longer: a job waits for nothing."""


@frozen
class Giver:
    """A peer that may have the tree, or some of it; `name` is what errors call it."""

    peer_id: PeerId
    name: str
    channel: grpc.aio.Channel


Reach = Callable[[Iterable[PeerId]], Sequence[Giver]]
"""Those of some peers that can be called."""


async def bring_tree(
    digest: Digest,
    store: ChunkStore,
    own: PeerId,
    holders: Sequence[Giver],
    reach: Reach,
    most_bytes: float = math.inf,
    idle_seconds: float = IDLE_SECONDS,
) -> int:
    """Brings a tree to our store, where it is durable on return.

    Args:
        own: This peer.
        holders: Who has it all, as far as is known.
        reach: For others who bring it too.
        most_bytes: What may be lacking here: whoever told of the tree said how large it is.
        idle_seconds: It is given up if nothing comes for so long.

    Returns:
        Bytes of chunks that were received; 0 if we had everything.

    Raises:
        Refused: More is lacking than may be.
        Unreachable: Nobody who is left gives what is lacking; says what each one answered.
        Busy: Our disk is full, or whoever has it is busy for too long.
    """
    if not await asyncio.to_thread(store.missing_manifest, digest):
        return 0
    hand, batch = Hand(), Batch(store)
    bringing = _Bringing(digest, store, own, holders, reach, hand, batch, idle_seconds)
    try:
        return await bringing.run(most_bytes)
    finally:
        # What arrived before a failure need not travel again.
        await hand.end(batch.end)


class _Bringing:
    """One tree on its way."""

    def __init__(
        self,
        digest: Digest,
        store: ChunkStore,
        own: PeerId,
        holders: Sequence[Giver],
        reach: Reach,
        hand: Hand,
        batch: Batch,
        idle_seconds: float,
    ) -> None:
        self._digest = digest
        self._store = store
        self._own = own
        self._holders = {giver.peer_id: giver for giver in holders}
        self._reach = reach
        self._hand = hand
        self._batch = batch
        self._idle_seconds = idle_seconds
        self._sharing = Sharing(own, ())
        self._met = {own}
        self._troubles: dict[str, MeshError] = {}
        self._broken: MeshError | None = None
        self._working: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._came_at = time.monotonic()
        self._total = 0

    async def run(self, most_bytes: float) -> int:
        encoded = await self._manifest()
        self._sharing = await asyncio.to_thread(self._plan, encoded, most_bytes)
        self._came_at = time.monotonic()
        with one_error():
            async with asyncio.TaskGroup() as tasks:
                await self._meet(tasks)
                self._begin(tasks, self._look_for_takers(tasks))
                for giver in list(self._holders.values()):
                    for _ in range(STREAMS):
                        self._begin(tasks, self._from_holder(giver))
                while not self._is_over():
                    await self._pause()
                for task in self._working:
                    task.cancel()
        if self._broken is not None:
            raise self._broken
        if not self._sharing.done:
            raise self._nobody()
        await self._hand.do(self._batch.commit)
        await asyncio.to_thread(self._store.put_manifest, encoded)
        return self._total

    def _begin(
        self, tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        """Goes on beside, and no longer than the tree is on its way."""
        task = tasks.create_task(work)
        self._working.append(task)
        return task

    def _is_over(self) -> bool:
        if self._sharing.done or self._broken is not None:
            return True
        return not self._holders and (self._is_idle() or not self._sharing.takers)

    def _is_idle(self) -> bool:
        return time.monotonic() - self._came_at > self._idle_seconds

    def _plan(self, encoded: bytes, most_bytes: float) -> Sharing:
        """Who may be asked for what. What was made of the list of files is let go: of a large tree
        it takes 60 MB."""
        sizes = Manifest.decode(encoded).chunk_sizes()
        lacking = self._store.missing(sizes)
        _check_size(sum(sizes[chunk] for chunk in lacking), most_bytes)
        return Sharing(self._own, cut(sizes, lacking))

    async def _manifest(self) -> bytes:
        for giver in list(self._holders.values()):
            try:
                return await self._client(giver).fetch_encoded(self._digest)
            except MeshError as error:
                self._lost(giver, error)
        raise self._nobody()

    async def _from_holder(self, giver: Giver) -> None:
        """Asks one who has everything, until all is here or it fails."""
        while not self._is_over() and giver.peer_id in self._holders:
            piece = self._sharing.from_holder(time.monotonic())
            if piece is None:
                await self._pause()
            elif (trouble := await self._get(piece, giver)) is None:
                self._sharing.came(piece, None, time.monotonic())
            elif isinstance(trouble, Busy) and not self._is_idle():
                await asyncio.sleep(min(trouble.retry_seconds or ASK_SECONDS, QUICK_SECONDS))
            else:
                self._lost(giver, trouble)

    async def _look_for_takers(self, tasks: asyncio.TaskGroup) -> None:
        for pause in chain(SOON_SECONDS, repeat(LATER_SECONDS)):
            await asyncio.sleep(pause)
            await self._meet(tasks)

    async def _meet(self, tasks: asyncio.TaskGroup) -> None:
        """Tells who has it that we bring it, and begins to work with whoever does so too."""
        told = await asyncio.gather(*map(self._takers_at, list(self._holders.values())))
        new = dict.fromkeys(peer for peers in told for peer in peers if peer not in self._met)
        room = MOST_TAKERS - len(self._sharing.takers)
        found = self._reach(list(new))[:room]
        self._met.update(giver.peer_id for giver in found)
        others = [one for one in found if one.peer_id not in self._holders]
        self._sharing.joined([one.peer_id for one in others], time.monotonic())
        # What they have already is known before anybody else is asked for it, if they say it soon.
        learning = [self._begin(tasks, self._learn(one)) for one in others]
        if learning:
            await asyncio.wait(learning, timeout=MEET_SECONDS)
        for one in others:
            self._begin(tasks, self._from_taker(one))

    async def _takers_at(self, giver: Giver) -> list[PeerId]:
        with suppress(MeshError):  # an older one does not know the question
            with translated(giver.name):
                stub = transfer_pb2_grpc.TransferServiceStub(giver.channel)
                request = TakeRequest(digest=self._digest)
                answer = await stub.Take(request, timeout=MEET_SECONDS)
            return [PeerId(peer) for peer in answer.peer_ids]
        return []

    async def _from_taker(self, taker: Giver) -> None:
        """Asks one who brings it too for what it has by then, until all is here or it fails."""
        peer = taker.peer_id
        while not self._is_over() and peer in self._sharing.takers:
            while (piece := self._sharing.from_taker(peer)) is not None:
                trouble = await self._get(piece, taker)
                if trouble is None:
                    self._sharing.came(piece, peer, time.monotonic())
                elif isinstance(trouble, Missing):  # it has the ends, and not the middle
                    self._sharing.lacks(peer, piece)
                    self._troubles[taker.name] = trouble
                elif isinstance(trouble, Busy):  # it is asked again what it has
                    self._sharing.has(peer, ())
                    self._troubles[taker.name] = trouble
                else:
                    self._give_up(taker, trouble)
                    return
            await asyncio.sleep(ASK_SECONDS)
            await self._learn(taker)

    async def _learn(self, taker: Giver) -> None:
        """Hears what another taker has by now."""
        try:
            numbers = await self._had_by(taker)
        except MeshError as error:
            self._give_up(taker, error)
        else:
            self._sharing.has(taker.peer_id, numbers)
            self._tell()

    def _give_up(self, taker: Giver, trouble: MeshError) -> None:
        self._troubles[taker.name] = trouble
        self._sharing.given_up(taker.peer_id)
        self._tell()

    async def _had_by(self, taker: Giver) -> list[int]:
        """Pieces that another taker has most likely."""
        pieces = self._sharing.lacking
        if not pieces:
            return []
        asked = dict.fromkeys(digest for piece in pieces for digest in piece.ends)
        with translated(taker.name):
            stub = transfer_pb2_grpc.TransferServiceStub(taker.channel)
            request = MissingRequest(chunk_digests=b"".join(asked))
            answer = await stub.Missing(request, timeout=QUICK_SECONDS)
        missing = frozenset(split_digests(answer.chunk_digests))
        return [piece.number for piece in pieces if missing.isdisjoint(piece.ends)]

    async def _get(self, piece: Piece, giver: Giver) -> MeshError | None:
        """Has a piece in the store; what was wrong if it is not."""
        try:
            client = self._client(giver)
            await client.fetch_chunks(piece.digests, piece.size_bytes, self._keep, self._hand)
            if self._sharing.takers:  # who can have it from us once it is durable
                await self._hand.do(self._commit)
        except MeshError as error:
            self._sharing.failed(piece)
            self._tell()
            return error
        self._total += piece.size_bytes
        self._tell()
        return None

    def _keep(self, packs: Sequence[FlatPack]) -> int:
        size = 0
        for chunk, data in (one for pack in packs for one in unpack(pack)):
            with self._ours():
                self._batch.add_foreign(chunk, data)
            size += len(data)
        self._came_at = time.monotonic()
        return size

    def _commit(self) -> None:
        with self._ours():
            self._batch.commit()

    @contextmanager
    def _ours(self) -> Generator[None]:
        """What fails within is our disk, and nobody else can mend it."""
        try:
            yield
        except Damaged:
            raise
        except MeshError as error:
            self._broken = error
            raise

    def _client(self, giver: Giver) -> TransferClient:
        return TransferClient(giver.channel, self._store, giver.name, self._idle_seconds)

    def _lost(self, giver: Giver, trouble: MeshError) -> None:
        self._holders.pop(giver.peer_id, None)
        self._troubles[giver.name] = trouble
        self._tell()

    def _tell(self) -> None:
        self._changed.set()

    async def _pause(self) -> None:
        """Until something changed, or a moment."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_SECONDS):
                await self._changed.wait()

    def _nobody(self) -> MeshError:
        """What everybody answered; the one error itself if there is only one."""
        if len(self._troubles) == 1:
            return next(iter(self._troubles.values()))
        said = " ".join(f"{name}: {error}" for name, error in self._troubles.items())
        return Unreachable("Nobody gives what is lacking.", said)


def _check_size(size: int, most: float) -> None:
    if size > most:
        why = f"{size:,} bytes are lacking here, and at most {most:,.0f} were to come."
        raise Refused("A tree is larger than it was said to be.", why)
