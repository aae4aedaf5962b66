"""Trees move between two peers over mutual TLS, whole or not at all."""

import asyncio
import os
import random
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
import pytest_asyncio

from dstack_agent.servicers.transfer import (
    MOST_LISTS,
    MOST_PUSHES,
    MOST_QUESTIONS,
    MOST_WANTED,
    TransferServicer,
    add_transfer,
)
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.room import check_reserve
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.faults import Busy, Damaged, Invalid, Missing, Refused, Unreachable
from dstack_mesh.ids import Address, Digest
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
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.server import listen_tcp, make_server
from dstack_mesh.wire.stream import Stream
from dstack_mesh.wire.transfer import TransferClient
from support.eventually import eventually_async
from support.meshes import Mesh

MIB = 1 << 20
T = TypeVar("T")


@dataclass(slots=True)
class Two:
    """A laptop and an agent, with a store each."""

    ours: ChunkStore
    theirs: ChunkStore
    client: TransferClient
    channel: grpc.aio.Channel
    server: grpc.aio.Server
    folder: Path

    def tree(self, name: str, files: dict[str, bytes]) -> Path:
        """A folder with these files."""
        root = self.folder / name
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        return root


@asynccontextmanager
async def serving(
    tmp_path: Path,
    check_room: Callable[[Path], None] = check_reserve,
    store: Callable[[Path], ChunkStore] = ChunkStore,
) -> AsyncGenerator[Two]:
    """Both, connected."""
    mesh = Mesh.make(tmp_path / "root")
    ours, theirs = ChunkStore(tmp_path / "ours"), store(tmp_path / "theirs")
    server = make_server()
    add_transfer(TransferServicer(theirs, check_room), server)
    port = listen_tcp(server, mesh.membership, "127.0.0.1", 0)
    await server.start()
    channels = Channels(mesh.admit(tmp_path / "laptop"))
    channel = channels.to_unknown(Address(f"127.0.0.1:{port}"))
    yield Two(ours, theirs, TransferClient(channel, ours, "ws"), channel, server, tmp_path)
    await channels.close()
    await server.stop(None)
    ours.close()
    theirs.close()


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with serving(tmp_path) as made:
        yield made


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = [path.relative_to(one) for path in sorted(one.rglob("*"))]
    assert names == [path.relative_to(other) for path in sorted(other.rglob("*"))]
    return all(
        (one / name).read_bytes() == (other / name).read_bytes()
        for name in names
        if (one / name).is_file()
    )


async def test_only_what_is_missing_is_sent(two: Two) -> None:
    root = two.tree("in", {"a": noise(5 * MIB), "b/c": b"small", "d": b""})
    saved = save_tree(two.ours, root)
    assert await two.client.send_tree(saved.digest) == 5 * MIB + 5
    assert await two.client.send_tree(saved.digest) == 0
    (root / "e").write_bytes(b"more")
    assert await two.client.send_tree(save_tree(two.ours, root).digest) == 4
    lay_tree(two.theirs, saved.digest, two.folder / "out")
    (root / "e").unlink()
    assert same(root, two.folder / "out")


async def test_only_what_is_missing_is_fetched(two: Two) -> None:
    root = two.tree("in", {"a": noise(3 * MIB), "b": noise(MIB, 2)})
    saved = save_tree(two.theirs, root)
    save_tree(two.ours, two.tree("part", {"b": noise(MIB, 2)}))
    assert await two.client.fetch_tree(saved.digest) == 3 * MIB
    assert await two.client.fetch_tree(saved.digest) == 0
    lay_tree(two.ours, saved.digest, two.folder / "out")
    assert same(root, two.folder / "out")


async def test_what_lies_at_the_target_is_not_fetched_again(two: Two) -> None:
    root = two.tree("in", {"a": noise(3 * MIB), "b/c": noise(MIB, 2)})
    saved = save_tree(two.theirs, root)
    told: list[int] = []
    first = await two.client.fetch_into(saved.digest, two.folder / "out")
    again = await two.client.fetch_into(saved.digest, two.folder / "out", on_bytes=told.append)
    assert (first.received_bytes, again.received_bytes) == (4 * MIB, 0)
    assert (again.files, again.size_bytes, sum(told)) == (2, 4 * MIB, 4 * MIB)
    (two.folder / "out" / "b" / "c").write_bytes(b"mine")
    assert (await two.client.fetch_into(saved.digest, two.folder / "out")).received_bytes == MIB
    assert same(root, two.folder / "out")


async def test_what_an_older_version_has_does_not_travel_again(two: Two) -> None:
    before = noise(40 * MIB)
    root = two.tree("in", {"a": before})
    await two.client.fetch_into(save_tree(two.theirs, root).digest, two.folder / "out")
    (root / "a").write_bytes(b"in front" + before[: 20 * MIB] + noise(MIB, 2) + before[21 * MIB :])
    told: list[int] = []
    changed = await two.client.fetch_into(
        save_tree(two.theirs, root).digest, two.folder / "out", on_bytes=told.append
    )
    assert changed.received_bytes < MIB + 300_000
    assert sum(told) == changed.size_bytes
    assert same(root, two.folder / "out")


async def test_a_tree_without_content_moves_as_well(two: Two) -> None:
    empty = two.ours.put_manifest(Manifest([FileEntry("a")]).encode())
    assert await two.client.send_tree(empty) == 0
    assert not two.theirs.missing_manifest(empty)


async def test_a_large_list_of_files_moves_in_pieces(two: Two) -> None:
    many = Manifest(FileEntry(f"{'x' * 200}/{n}") for n in range(12_000))
    assert len(many.encode()) > 2 * MIB
    await two.client.send_tree(two.ours.put_manifest(many.encode()))
    assert two.theirs.get_manifest(many.digest).entries == many.entries
    other = Manifest(FileEntry(f"{'y' * 200}/{n}") for n in range(12_000))
    await two.client.fetch_tree(two.theirs.put_manifest(other.encode()))
    assert two.ours.get_manifest(other.digest).entries == other.entries


async def test_files_are_fetched_straight_into_place(two: Two) -> None:
    files = {
        "model/a.bin": noise(4 * MIB),
        "model/again.bin": noise(4 * MIB),
        "model/zeros": bytes(3 * MIB),
        "model/deep/b": b"b",
        "log": b"l" * 50_000,
        "none": b"",
    }
    root = two.tree("in", files)
    (root / "model" / "link").symlink_to("a.bin")
    (root / "run").write_text("#!")
    (root / "run").chmod(0o755)
    (root / "hollow").mkdir()
    saved = save_tree(two.theirs, root)
    heard: list[int] = []
    fetched = await two.client.fetch_into(saved.digest, two.folder / "out", on_bytes=heard.append)
    assert same(root, two.folder / "out")
    assert (two.folder / "out" / "model" / "link").readlink() == Path("a.bin")
    assert os.access(two.folder / "out" / "run", os.X_OK)
    assert (fetched.files, fetched.size_bytes) == (saved.files, saved.size_bytes)
    # What is used twice travels once, zeros never do, and nothing went through our store.
    assert fetched.received_bytes + 3 * MIB == sum(heard) < 8 * MIB
    assert two.ours.missing([digest_of(b"b")]) == [digest_of(b"b")]


async def test_a_part_of_a_tree_can_be_fetched(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"m/a": b"1", "m/d/b": b"2", "other": b"3"}))
    out = two.folder / "out"
    assert (await two.client.fetch_into(saved.digest, out, "m/")).files == 2
    assert {path.name for path in out.rglob("*")} == {"a", "d", "b"}
    into = await two.client.fetch_into(saved.digest, out, "m/d/b")
    assert into.path == out / "b"
    named = await two.client.fetch_into(saved.digest, out / "new name", "other")
    assert named.path.read_bytes() == b"3"
    with pytest.raises(Missing):
        await two.client.fetch_into(saved.digest, out, "m/x")


async def test_what_we_have_already_does_not_travel_into_files(two: Two) -> None:
    root = two.tree("in", {"a": noise(2 * MIB), "b": noise(MIB, 2)})
    saved = save_tree(two.theirs, root)
    save_tree(two.ours, two.tree("part", {"a": noise(2 * MIB)}))
    fetched = await two.client.fetch_into(saved.digest, two.folder / "out")
    assert same(root, two.folder / "out")
    assert (fetched.received_bytes, fetched.size_bytes) == (MIB, 3 * MIB)


async def test_what_nobody_has_is_missing(two: Two) -> None:
    nothing = digest_of(b"nothing")
    with pytest.raises(Missing):
        await two.client.send_tree(nothing)
    with pytest.raises(Missing):
        await two.client.fetch_tree(nothing)
    with pytest.raises(Missing):
        await two.client.fetch_into(nothing, two.folder / "out")


async def test_a_damaged_chunk_is_not_served(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"a": noise(4 * MIB)}))
    [pack] = (two.theirs.folder / "packs").iterdir()
    with pack.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"wrong")
    out = two.folder / "out"
    with pytest.raises(Damaged):
        await two.client.fetch_into(saved.digest, out)
    assert list(out.iterdir()) == []
    with pytest.raises(Missing):
        await two.client.fetch_tree(saved.digest)
    save_tree(two.ours, two.folder / "in")
    assert len(two.theirs.missing(two.ours.get_manifest(saved.digest).chunk_digests())) == 1


async def test_a_server_that_goes_away_leaves_no_half_files(two: Two) -> None:
    root = two.tree("in", {"a": noise(40 * MIB)})
    saved = save_tree(two.theirs, root)
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told(_: int) -> None:
        loop.call_soon_threadsafe(begun.set)

    out = two.folder / "out"
    fetching = asyncio.create_task(two.client.fetch_into(saved.digest, out, on_bytes=told))
    await begun.wait()
    await two.server.stop(None)
    with pytest.raises(Unreachable):
        await fetching
    assert list(out.iterdir()) == []


async def test_a_fetch_that_is_cancelled_leaves_no_half_files(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"a": noise(40 * MIB)}))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    out = two.folder / "out"
    fetching = asyncio.create_task(
        two.client.fetch_into(
            saved.digest, out, on_bytes=lambda _: void(loop.call_soon_threadsafe(begun.set))
        )
    )
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert list(out.iterdir()) == []
    assert (await two.client.fetch_into(saved.digest, out)).files == 1


@pytest.mark.parametrize("sizes", [(40,), (2,) * 20, (1, 40)])
async def test_a_fetch_that_broke_off_goes_on_where_it_was(two: Two, sizes: Sequence[int]) -> None:
    files = {f"f{number:02}": noise(mib * MIB, number) for number, mib in enumerate(sizes)}
    saved = save_tree(two.theirs, two.tree("in", files))
    half = asyncio.Event()
    loop, out = asyncio.get_running_loop(), two.folder / "out"
    written = 0

    def told(count: int) -> None:
        nonlocal written
        written += count
        if written > 10 * MIB:
            loop.call_soon_threadsafe(half.set)

    fetching = asyncio.create_task(two.client.fetch_into(saved.digest, out, on_bytes=told))
    await half.wait()
    fetching.cancel()
    await asyncio.wait([fetching])
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    assert whole.items() <= files.items() and len(whole) < len(files)
    fetched = await two.client.fetch_into(saved.digest, out)
    assert fetched.received_bytes + written <= sum(sizes) * MIB + MIB
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


async def test_a_fetch_that_finds_the_disk_full_says_so_and_leaves_nothing_half(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"a": noise(4 * MIB), "b": noise(4 * MIB, 2)}))
    out = two.folder / "out"

    def told(_: int) -> None:
        raise Busy("The disk is full.")

    with pytest.raises(Busy, match="disk is full"):
        await two.client.fetch_into(saved.digest, out, on_bytes=told)
    assert {path.name for path in out.iterdir()} <= {"a"}


def void(_: object) -> None:
    """Forgets a result."""


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
