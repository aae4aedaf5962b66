"""A tree comes from everybody who has some of it, over mutual TLS."""

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from dstack_agent.peers import Peers
from dstack_agent.servicers.transfer import TransferServicer, add_transfer
from dstack_mesh.chunks.packs import Place
from dstack_mesh.chunks.sharing import cut
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.faults import Busy, MeshError, Refused, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, Digest, PeerId
from dstack_mesh.v1.transfer_pb2 import MissingResponse, TakeRequest
from dstack_mesh.v1.transfer_pb2_grpc import TransferServiceStub
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.server import listen_tcp, make_server
from dstack_mesh.wire.swarm import IDLE_SECONDS, Giver, bring_tree
from dstack_scheduler.job import Source
from support.eventually import eventually_async
from support.meshes import Mesh, card_of, member
from support.tcp_proxy import TcpProxy, tcp_proxy

MIB = 1 << 20
SIZE = 24 * MIB


@dataclass(slots=True)
class Node:
    """A peer that serves its store behind a proxy that counts."""

    peer_id: PeerId
    store: ChunkStore
    channels: Channels
    servicer: TransferServicer
    server: grpc.aio.Server
    proxy: TcpProxy

    def giver(self, to: "Node") -> Giver:
        """Another node, as this one calls it."""
        address = Address(f"127.0.0.1:{to.proxy.port}")
        return Giver(to.peer_id, to.peer_id[:8], self.channels.to_peer(to.peer_id, address))

    async def bring(
        self,
        digest: Digest,
        holders: Sequence["Node"],
        lab: "Lab",
        idle_seconds: float = IDLE_SECONDS,
        most_bytes: float = math.inf,
    ) -> int:
        """Brings a tree here."""

        def reach(peers: Iterable[PeerId]) -> list[Giver]:
            return [self.giver(node) for node in lab.nodes if node.peer_id in set(peers)]

        givers = [self.giver(node) for node in holders]
        return await bring_tree(
            digest, self.store, self.peer_id, givers, reach, most_bytes, idle_seconds
        )


@dataclass(slots=True)
class Lab:
    nodes: list[Node]
    folder: Path

    def tree(self, *nodes: Node, size: int = SIZE) -> Digest:
        """One that these nodes have."""
        root = self.folder / "in"
        if not root.exists():
            root.mkdir()
            (root / "data").write_bytes(random.Random(7).randbytes(size))
            (root / "small").write_bytes(b"small")
        [digest] = {save_tree(node.store, root).digest for node in nodes}
        return digest

    def is_whole(self, node: Node, digest: Digest) -> bool:
        """Whether a node can lay the tree out, byte for byte."""
        out = self.folder / f"out-{node.peer_id[:8]}"
        lay_tree(node.store, digest, out)
        return (out / "data").read_bytes() == (self.folder / "in" / "data").read_bytes()


class AlwaysBusy(TransferServicer):
    """Gives no chunk to anybody."""

    async def Fetch(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: object, context: object
    ) -> None:
        raise Busy("This agent has no time.")


class Mute(TransferServicer):
    """Has the lists of what there is, and sends none; says to nobody what it lacks."""

    ended = False

    async def Manifest(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: object, context: object
    ) -> None:
        await asyncio.Event().wait()

    async def Missing(self, request: object, context: object) -> MissingResponse:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True
        return MissingResponse()


class FullDisk(ChunkStore):
    """Takes bytes, and cannot make them last."""

    def commit(self, rows: Sequence[tuple[Digest, Place]]) -> None:
        raise Busy("The disk is full.")


Servicers = Sequence[type[TransferServicer]]


@asynccontextmanager
async def lab_of(count: int, folder: Path, first: Servicers = ()) -> AsyncGenerator[Lab]:
    """So many peers, of which the first ones are special."""
    servicers = [*first, *[TransferServicer] * (count - len(first))]
    mesh = Mesh.make(folder / "root")
    lab = Lab([], folder)
    async with AsyncExitStack() as stack:
        for index, servicer in enumerate(servicers):
            home = mesh.admit(folder / f"node-{index}")
            store = ChunkStore(folder / f"store-{index}")
            stack.callback(store.close)
            server = make_server()
            served = servicer(store)
            add_transfer(served, server)
            port = listen_tcp(server, member(home), "127.0.0.1", 0)
            await server.start()
            stack.push_async_callback(server.stop, None)
            channels = Channels(home)
            stack.push_async_callback(channels.close)
            proxy = stack.enter_context(tcp_proxy(port))
            lab.nodes.append(Node(member(home).peer_id, store, channels, served, server, proxy))
        yield lab


async def returned(node: Node, size: float) -> None:
    """Waits until a node has sent so much."""

    async def look() -> bool:
        return node.proxy.returned > size

    await eventually_async(look, within=20)


@pytest.mark.timed
async def test_five_at_once_take_one_copy_from_its_origin(tmp_path: Path) -> None:
    async with lab_of(6, tmp_path) as lab:
        origin, *takers = lab.nodes
        size = 4 * SIZE  # what is taken twice before they know of each other is always as much
        digest = lab.tree(origin, size=size)
        await asyncio.gather(*(node.bring(digest, [origin], lab) for node in takers))
        copies = origin.proxy.returned / size
        print(f"the origin sent {copies:.2f} copies")
        assert copies <= 1.2
        assert all(lab.is_whole(node, digest) for node in takers)


async def test_who_comes_later_takes_nothing_more_from_its_origin(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path) as lab:
        origin, *takers = lab.nodes
        digest = lab.tree(origin)
        for node in takers:
            await node.bring(digest, [origin], lab)
        assert origin.proxy.returned / SIZE <= 1.2


async def test_without_sharing_each_takes_a_copy(tmp_path: Path) -> None:
    """The negative control: nobody can reach the others."""
    async with lab_of(3, tmp_path) as lab:
        origin, *takers = lab.nodes
        digest = lab.tree(origin)
        await asyncio.gather(*(node.bring(digest, [origin], Lab([], tmp_path)) for node in takers))
        assert origin.proxy.returned / SIZE >= 2


async def test_all_who_have_it_give_some(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path) as lab:
        first, second, taker = lab.nodes
        digest = lab.tree(first, second)
        assert await taker.bring(digest, [first, second], lab) == SIZE + 5
        assert min(first.proxy.returned, second.proxy.returned) > SIZE / 10
        assert await taker.bring(digest, [first, second], lab) == 0


async def test_when_one_dies_the_others_go_on_and_nothing_comes_twice(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path) as lab:
        first, second, taker = lab.nodes
        digest = lab.tree(first, second)
        bringing = asyncio.create_task(taker.bring(digest, [first, second], lab))
        await returned(first, SIZE / 10)
        first.proxy.stop()
        assert await bringing == SIZE + 5
        assert first.proxy.returned + second.proxy.returned < 1.5 * SIZE
        assert lab.is_whole(taker, digest)


async def test_a_taker_that_dies_holds_nobody_up(tmp_path: Path) -> None:
    async with lab_of(4, tmp_path) as lab:
        origin, dying, *takers = lab.nodes
        digest = lab.tree(origin)
        going = [
            asyncio.create_task(node.bring(digest, [origin], lab)) for node in (dying, *takers)
        ]
        await returned(origin, SIZE / 4)
        going[0].cancel()
        dying.proxy.stop()
        await asyncio.gather(*going[1:])
        assert all(lab.is_whole(node, digest) for node in takers)


async def test_a_taker_without_the_middle_of_its_pieces_holds_nobody_up(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path) as lab:
        origin, full, taker = lab.nodes
        digest = lab.tree(origin)
        sizes = origin.store.get_manifest(digest).chunk_sizes()
        ends = {end for piece in cut(sizes, sizes) for end in piece.ends}
        full.store.put((end, origin.store.get(end)) for end in ends)
        await TransferServiceStub(full.giver(origin).channel).Take(TakeRequest(digest=digest))
        async with asyncio.timeout(20):
            await taker.bring(digest, [origin], lab)
        assert lab.is_whole(taker, digest)


async def test_who_is_always_busy_holds_nobody_up_and_is_named_in_the_end(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path, [AlwaysBusy]) as lab, asyncio.timeout(20):
        busy, honest, taker = lab.nodes
        digest = lab.tree(busy, honest)
        with pytest.raises(Busy, match="has no time"):
            await taker.bring(digest, [busy], lab, idle_seconds=0.5)
        assert await taker.bring(digest, [busy, honest], lab) == SIZE + 5


async def test_who_says_nothing_holds_nobody_up(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path, [Mute]) as lab:
        mute, honest, taker = lab.nodes
        digest = lab.tree(mute, honest)
        async with asyncio.timeout(30):
            await taker.bring(digest, [mute, honest], lab, idle_seconds=1)
        assert lab.is_whole(taker, digest)


async def test_who_brings_it_too_and_says_nothing_holds_nobody_up(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path, [Mute]) as lab:
        mute, origin, taker = lab.nodes
        digest = lab.tree(origin)
        await TransferServiceStub(mute.giver(origin).channel).Take(TakeRequest(digest=digest))
        bringing = asyncio.create_task(taker.bring(digest, [origin], lab))
        await returned(origin, MIB)
        assert isinstance(mute.servicer, Mute)
        assert not mute.servicer.ended
        bringing.cancel()
        await asyncio.wait([bringing])
        assert not list(taker.store.sessions.iterdir())


async def test_a_full_disk_here_is_nobody_elses_fault(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path) as lab, asyncio.timeout(20):
        origin, other, taker = lab.nodes
        digest = lab.tree(origin)
        await TransferServiceStub(other.giver(origin).channel).Take(TakeRequest(digest=digest))
        taker.store.close()
        taker.store = FullDisk(tmp_path / "full")
        with contextlib.closing(taker.store), pytest.raises(Busy, match="disk is full"):
            await taker.bring(digest, [origin], lab)
        assert not list(taker.store.sessions.iterdir())
        assert origin.proxy.returned < SIZE


async def test_of_a_tree_that_is_larger_than_it_was_said_to_be_nothing_comes(
    tmp_path: Path,
) -> None:
    async with lab_of(2, tmp_path) as lab:
        origin, taker = lab.nodes
        digest = lab.tree(origin)
        with pytest.raises(Refused, match="larger"):
            await taker.bring(digest, [origin], lab, most_bytes=SIZE + 4)
        assert origin.proxy.returned < MIB
        assert await taker.bring(digest, [origin], lab, most_bytes=SIZE + 5) == SIZE + 5


async def test_nobody_is_trusted(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path) as lab:
        liar, honest, taker = lab.nodes
        digest = lab.tree(liar, honest)
        for pack in liar.store.packs.iterdir():
            content = bytearray(pack.read_bytes())
            content[len(content) // 2] ^= 1
            pack.write_bytes(content)
        assert await taker.bring(digest, [liar, honest], lab) == SIZE + 5
        assert lab.is_whole(taker, digest)


async def test_where_nobody_has_it_everybody_is_named(tmp_path: Path) -> None:
    async with lab_of(3, tmp_path) as lab:
        first, second, taker = lab.nodes
        with pytest.raises(MeshError) as failed:
            await taker.bring(Digest(bytes(32)), [first, second], lab)
        assert first.peer_id[:8] in str(failed.value) and second.peer_id[:8] in str(failed.value)


async def test_each_address_of_a_source_is_tried_and_who_has_it_not_is_left(
    tmp_path: Path,
) -> None:
    async with lab_of(3, tmp_path) as lab:
        holder, empty, taker = lab.nodes
        digest = lab.tree(holder)
        home = Home(tmp_path / "node-2")
        card = card_of(home, "ws-3")
        peers = Peers(home, taker.channels, taker.store, lambda: card, lambda: ())
        dead, alive = Address("127.0.0.1:1"), Address(f"127.0.0.1:{holder.proxy.port}")
        nothing = Source(empty.peer_id, (Address(f"127.0.0.1:{empty.proxy.port}"),))
        with pytest.raises(Unreachable) as nobody:
            await peers.bring(digest, [nothing, Source(holder.peer_id, (dead,))])
        assert dead in nobody.value.why and nothing.addresses[0] in nobody.value.why
        sources = [nothing, Source(holder.peer_id, (dead, alive))]
        assert await peers.bring(digest, sources) == SIZE + 5
