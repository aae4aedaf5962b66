"""What a peer may not send, ask or take at once."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from dstack_agent.servicers.transfer import MOST_LISTS, MOST_PUSHES, MOST_QUESTIONS, MOST_WANTED
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.room import check_reserve
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Busy, Damaged, Invalid, Missing, Refused, Unreachable
from dstack_mesh.ids import Digest
from dstack_mesh.v1.transfer_pb2 import (
    FetchRequest,
    FetchResponse,
    ManifestPiece,
    ManifestRequest,
    MissingRequest,
    Pack,
    PushRequest,
    Want,
)
from dstack_mesh.v1.transfer_pb2_grpc import TransferServiceStub
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.stream import Stream
from support.eventually import eventually_async
from support.two_stores import MIB, Two, noise, serving

T = TypeVar("T")


async def read_pack(call: "grpc.aio.StreamStreamCall[FetchRequest, FetchResponse]") -> int:
    """Bytes of the next pack."""
    response = await call.read()
    assert isinstance(response, FetchResponse)
    return len(response.pack.data)


async def test_a_reader_without_credit_gets_nothing_more(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"a": noise(24 * MIB)}))
    digests = two.theirs.get_manifest(saved.digest).chunk_digests()
    call = TransferServiceStub(two.channel).Fetch(timeout=20)
    await call.write(FetchRequest(want=Want(digests=b"".join(digests)), credit_bytes=3 * MIB))
    got = 0
    while got < 3 * MIB:
        got += await read_pack(call)
    assert got < 5 * MIB
    reading = asyncio.ensure_future(read_pack(call))
    done, _ = await asyncio.wait([reading], timeout=0.3)
    assert not done
    await call.write(FetchRequest(credit_bytes=30 * MIB))
    got += await reading
    while got < 24 * MIB:
        got += await read_pack(call)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def push(two: Two, *requests: PushRequest) -> None:
    """Sends requests as they are and reads all answers."""
    stream = Stream(TransferServiceStub(two.channel).Push(timeout=20), "ws")
    for request in requests:
        await stream.write(request)
    await stream.done_writing()
    with suppress(Unreachable):  # that is the end of the answers
        while True:
            await stream.read()


def pack(*chunks: bytes, called: bytes = b"", sizes: tuple[int, ...] = ()) -> PushRequest:
    digests = called or b"".join(digest_of(chunk) for chunk in chunks)
    said = sizes or tuple(map(len, chunks))
    return PushRequest(pack=Pack(digests=digests, sizes_bytes=said, data=b"".join(chunks)))


@pytest.mark.parametrize(
    ("requests", "error"),
    [
        ([pack(b"one", called=digest_of(b"two"))], Damaged),
        ([pack(b"one", called=b"short")], Invalid),
        ([pack(b"one", sizes=(4,))], Invalid),
        ([pack(b"one", sizes=(2,))], Invalid),
        ([pack(bytes(3 * MIB))], Invalid),
        ([PushRequest(manifest=ManifestPiece(digest=b"x", data=b"no list", last=True))], Invalid),
        ([PushRequest(manifest=ManifestPiece(offset_bytes=7, data=b"x", last=True))], Invalid),
    ],
)
async def test_wrong_bytes_are_refused(
    two: Two, requests: list[PushRequest], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await push(two, *requests)
    assert len(two.theirs.missing([digest_of(b"one"), digest_of(b"two")])) == 2


async def test_the_reason_survives_messages_that_are_sent_too_late(two: Two) -> None:
    for _ in range(30):
        with pytest.raises(Damaged):
            await push(two, *[pack(b"one", called=digest_of(b"two"))] * 200)


async def test_a_list_of_files_before_its_chunks_is_refused(two: Two) -> None:
    tree = Manifest([FileEntry("a", (3,), digest_of(b"one"))])
    piece = ManifestPiece(digest=tree.digest, data=tree.encode(), last=True)
    with pytest.raises(Refused):
        await push(two, PushRequest(manifest=piece))
    await push(two, pack(b"one"), PushRequest(manifest=piece))
    assert not two.theirs.missing_manifest(tree.digest)


async def test_questions_have_limits(two: Two) -> None:
    stub = TransferServiceStub(two.channel)
    with pytest.raises(Invalid), translated("ws"):
        await stub.Missing(MissingRequest(chunk_digests=b"x" * 33), timeout=5)
    with pytest.raises(Invalid), translated("ws"):
        await stub.Missing(MissingRequest(chunk_digests=bytes(32 * 65_537)), timeout=5)
    call = stub.Fetch(timeout=5)
    await call.write(FetchRequest(want=Want(digests=bytes(32 * MOST_WANTED))))
    await call.write(FetchRequest(want=Want(digests=bytes(32))))
    with pytest.raises((Invalid, Missing)), translated("ws"):
        await call.read()


async def test_several_trees_move_at_once(two: Two) -> None:
    saved = [
        save_tree(two.theirs, two.tree(f"in{n}", {"a": noise(2 * MIB, n), "b": noise(99, 1)}))
        for n in range(4)
    ]
    sent = [save_tree(two.ours, two.tree(f"up{n}", {"a": noise(2 * MIB, 9 + n)})) for n in range(4)]
    async with asyncio.TaskGroup() as group:
        for one in saved:
            group.create_task(two.client.fetch_tree(one.digest))
        for one in sent:
            group.create_task(two.client.send_tree(one.digest))
    assert not any(two.ours.missing_manifest(Digest(one.digest)) for one in saved)
    assert not any(two.theirs.missing_manifest(Digest(one.digest)) for one in sent)


class Slow(ChunkStore):
    """Answers once it may, and counts who waits for it at the same time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.reading = self.most = 0
        self._counting = threading.Lock()

    def get_encoded(self, digest: Digest) -> bytes:
        return self._slowly(lambda: super(Slow, self).get_encoded(digest))

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        return self._slowly(lambda: super(Slow, self).missing(digests))

    def _slowly(self, work: Callable[[], T]) -> T:
        with self._counting:
            self.reading += 1
            self.most = max(self.most, self.reading)
        try:
            assert self.gate.wait(10)
            return work()
        finally:
            with self._counting:
                self.reading -= 1


@pytest.mark.parametrize(("what", "most"), [("lists", MOST_LISTS), ("questions", MOST_QUESTIONS)])
async def test_one_peer_takes_a_few_threads_however_much_it_asks(
    tmp_path: Path, what: str, most: int
) -> None:
    """They serve everybody: an agent without one does not even say Hello."""
    async with serving(tmp_path, store=Slow) as two:
        slow = two.theirs
        assert isinstance(slow, Slow)
        slow.gate.set()
        digest = save_tree(slow, two.tree("in", {"a": b"x"})).digest
        slow.gate.clear()
        slow.most = 0
        stub = TransferServiceStub(two.channel)

        async def ask() -> None:
            if what == "questions":
                await stub.Missing(MissingRequest(chunk_digests=bytes(32)), timeout=10)
                return
            async for _ in stub.Manifest(ManifestRequest(digest=digest), timeout=10):
                pass

        async def busy() -> bool:
            return slow.reading == most

        async with asyncio.TaskGroup() as group:
            for _ in range(3 * most):
                group.create_task(ask())
            await eventually_async(busy, within=10)
            await asyncio.sleep(0.05)
            slow.gate.set()
        assert slow.most == most


async def test_a_peer_brings_a_few_trees_at_a_time_and_the_next_one_waits(two: Two) -> None:
    digest = save_tree(two.ours, two.tree("a", {"x": b"x"})).digest
    stub = TransferServiceStub(two.channel)
    open_ones = [stub.Push() for _ in range(MOST_PUSHES)]
    for call in open_ones:
        await call.write(PushRequest())
    sending = asyncio.create_task(two.client.send_tree(digest))
    assert not (await asyncio.wait({sending}, timeout=0.3))[0]
    open_ones[0].cancel()
    async with asyncio.timeout(10):
        await sending
    assert not two.theirs.missing_manifest(digest)
    for call in open_ones:
        call.cancel()


async def test_others_cannot_fill_the_reserve_of_the_disk(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        check_reserve(folder, 1 << 60)

    async with serving(tmp_path, full) as two:
        digest = save_tree(two.ours, two.tree("a", {"x": b"x"})).digest
        with pytest.raises(Busy) as refused:
            await two.client.send_tree(digest)
        assert refused.value.code == "disk-full"
        assert two.theirs.missing_manifest(digest)
