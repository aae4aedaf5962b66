"""A laptop and an agent with a store each, connected."""

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest_asyncio

from dstack_agent.servicers.transfer import TransferServicer, add_transfer
from dstack_mesh.chunks.room import check_reserve
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.ids import Address
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.server import listen_tcp, make_server
from dstack_mesh.wire.transfer import TransferClient
from support.meshes import Mesh

MIB = 1 << 20


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
    way: Callable[[int], AbstractContextManager[int]] = nullcontext,
) -> AsyncGenerator[Two]:
    """Both, connected; `way` gives the port by which the port of the agent is reached."""
    mesh = Mesh.make(tmp_path / "root")
    ours, theirs = ChunkStore(tmp_path / "ours"), store(tmp_path / "theirs")
    server = make_server()
    add_transfer(TransferServicer(theirs, check_room), server)
    port = listen_tcp(server, mesh.membership, "127.0.0.1", 0)
    await server.start()
    channels = Channels(mesh.admit(tmp_path / "laptop"))
    try:
        with way(port) as reached:
            channel = channels.to_unknown(Address(f"127.0.0.1:{reached}"))
            yield Two(ours, theirs, TransferClient(channel, ours, "ws"), channel, server, tmp_path)
    finally:
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
