"""Over a slow network bytes that shrink travel compressed; what arrives is the same."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from zstandard import ZstdCompressor

from dstack_agent.servicers.transfer import TransferServicer
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Damaged, Invalid
from dstack_mesh.v1.transfer_pb2 import (
    FetchRequest,
    FetchResponse,
    MissingRequest,
    MissingResponse,
    Pack,
    PushRequest,
    Want,
)
from dstack_mesh.v1.transfer_pb2_grpc import TransferServiceStub
from dstack_mesh.wire.stream import Stream
from support import two_stores
from support.tcp_proxy import TcpProxy, tcp_proxy
from support.two_stores import MIB, Two, noise, same, serving

if TYPE_CHECKING:
    from dstack_agent.servicers.transfer import Context

SPEED = 16 * MIB
"""Bytes a second: of a gigabit's network an eighth."""

SIZE = 12 * MIB

TEXT = b"".join(b"step %d, loss %.5f\n" % (step, 1 / (step + 1)) for step in range(SIZE // 16))[
    :SIZE
]


@asynccontextmanager
async def slow(folder: Path) -> AsyncGenerator[tuple[Two, TcpProxy]]:
    """A laptop and an agent with a slow network between them."""
    between: list[TcpProxy] = []

    @contextmanager
    def way(port: int) -> Generator[int]:
        with tcp_proxy(port) as proxy:
            proxy.bytes_per_second = SPEED
            between.append(proxy)
            yield proxy.port

    async with serving(folder, way=way) as two:
        yield two, between[0]


async def test_text_is_sent_compressed(tmp_path: Path) -> None:
    async with slow(tmp_path) as (two, proxy):
        root = two.tree("in", {"log": TEXT})
        saved = save_tree(two.ours, root)
        assert await two.client.send_tree(saved.digest) == SIZE
        assert proxy.passed < SIZE / 2
        await two.client.fetch_into(saved.digest, two.folder / "out")
        assert same(root, two.folder / "out")


async def test_text_is_fetched_compressed(tmp_path: Path) -> None:
    async with slow(tmp_path) as (two, proxy):
        root = two.tree("in", {"log": TEXT})
        saved = save_tree(two.theirs, root)
        fetched = await two.client.fetch_into(saved.digest, two.folder / "out")
        assert fetched.received_bytes == SIZE
        assert proxy.returned < SIZE / 2
        assert same(root, two.folder / "out")


async def test_what_does_not_shrink_travels_as_it_is(tmp_path: Path) -> None:
    async with slow(tmp_path) as (two, proxy):
        root = two.tree("in", {"weights": noise(4 * MIB)})
        saved = save_tree(two.theirs, root)
        await two.client.fetch_into(saved.digest, two.folder / "out")
        assert 4 * MIB < proxy.returned < 4.2 * MIB
        assert same(root, two.folder / "out")


async def test_whoever_does_not_say_that_it_reads_it_gets_it_as_it_is(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"log": TEXT[:MIB]}))
    digests = two.theirs.get_manifest(saved.digest).chunk_digests()
    for zstd in (False, True):
        call = TransferServiceStub(two.channel).Fetch(timeout=20)
        want = Want(digests=b"".join(digests), zstd=zstd)
        await call.write(FetchRequest(want=want, credit_bytes=4 * MIB))
        response = await call.read()
        assert isinstance(response, FetchResponse)
        assert bool(response.pack.zstd) == zstd
        assert bool(response.pack.data) != zstd
        call.cancel()


class Older(TransferServicer):
    """Says of itself what an agent says that has never heard of compressed packs."""

    async def Missing(self, request: MissingRequest, context: "Context") -> MissingResponse:
        answer = await super().Missing(request, context)
        answer.ClearField("zstd")
        return answer


async def test_an_agent_that_does_not_read_it_is_sent_it_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_stores, "TransferServicer", Older)
    async with slow(tmp_path) as (two, proxy):
        await two.client.send_tree(save_tree(two.ours, two.tree("in", {"log": TEXT})).digest)
        assert proxy.passed > SIZE


@pytest.mark.parametrize(
    ("pack", "error"),
    [
        (Pack(digests=digest_of(b"a"), sizes_bytes=[1], zstd=b"no frame"), Invalid),
        (Pack(digests=digest_of(b"a"), sizes_bytes=[2], zstd=b"FRAME"), Invalid),
        (Pack(digests=digest_of(b"a"), sizes_bytes=[3 * MIB], zstd=b"FRAME"), Invalid),
        (Pack(digests=digest_of(b"b"), sizes_bytes=[1], zstd=b"FRAME"), Damaged),
    ],
    ids=["none", "another-size", "too-large", "another-chunk"],
)
async def test_a_compressed_pack_that_is_wrong_is_refused(
    two: Two, pack: Pack, error: type[Exception]
) -> None:
    if pack.zstd == b"FRAME":
        pack.zstd = ZstdCompressor().compress(b"a")
    stream = Stream(TransferServiceStub(two.channel).Push(timeout=20), "ws")
    with pytest.raises(error):
        await stream.write(PushRequest(pack=pack))
        await stream.done_writing()
        await stream.read()
    assert two.theirs.missing([digest_of(b"a")]) == [digest_of(b"a")]
