"""The two sides of a transfer, each a process of its own: `python bench/moving.py SIDE …`.

Ours: the agent serves a chunk store over mutual TLS, the laptop fetches a tree into files, with
every chunk hashed on both sides and the files synced. Raw: the same TLS, keys, hash and sync with
nothing between: 1 MiB is read, hashed and sent, received, hashed and written.
"""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from blake3 import blake3

from dstack_agent.servicers.transfer import TransferServicer, add_transfer
from dstack_mesh.allocator import collect_rarely, keep_buffers
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, Digest
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.server import listen_tcp, make_server
from dstack_mesh.wire.transfer import TransferClient

BLOCK_BYTES = 1 << 20


def side(*arguments: object) -> list[str]:
    """The command of one side."""
    return [sys.executable, __file__, *map(str, arguments)]


@contextmanager
def serving(*arguments: object) -> Generator[int]:
    """The port of an agent's side, which serves while the block runs."""
    with subprocess.Popen(
        side(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin and server.stdout
        yield int(server.stdout.readline())
        server.stdin.close()


def mesh_home(root: Path) -> Home:
    """A home that is the only member of a new mesh."""
    from dstack_mesh.trust.authority import create_mesh

    home = Home(root)
    home.prepare()
    create_mesh(home, "bench", datetime.now(UTC))
    return home


def clear(target: Path) -> Path:
    """An empty folder, with nothing left to write from before."""
    subprocess.run(("rm", "-rf", str(target)), check=True)
    target.mkdir()
    os.sync()
    return target


async def serve(home: Home, folder: Path) -> None:
    store = ChunkStore(folder)
    server = make_server()
    add_transfer(TransferServicer(store), server)
    port = listen_tcp(server, Membership.require(home), "127.0.0.1", 0)
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    store.close()


async def send(home: Home, port: int, folder: Path, source: Path) -> None:
    store = ChunkStore(folder)
    channels = Channels(home)
    address = Address(f"127.0.0.1:{port}")
    saved = await asyncio.to_thread(save_tree, store, source)
    channel = channels.to_peer(Membership.require(home).peer_id, address)
    await TransferClient(channel, store).send_tree(saved.digest)
    print(saved.digest.hex())
    await channels.close()
    store.close()


async def fetch(home: Home, port: int, folder: Path, digest: Digest, target: Path) -> None:
    store = ChunkStore(folder)
    channels = Channels(home)
    address = Address(f"127.0.0.1:{port}")
    channel = channels.to_peer(Membership.require(home).peer_id, address)
    await TransferClient(channel, store).fetch_into(digest, target)
    await channels.close()
    store.close()


def raw_serve(home: Home, source: Path) -> None:
    context = _context(home, ssl.PROTOCOL_TLS_SERVER)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_leave_with_caller, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        with (
            context.wrap_socket(connection, server_side=True) as peer,
            source.open("rb", 0) as file,
        ):
            seen, block = blake3(), memoryview(bytearray(BLOCK_BYTES))
            while count := file.readinto(block):
                seen.update(block[:count])
                peer.sendall(block[:count])
            peer.sendall(seen.digest())


def raw_fetch(home: Home, port: int, size: int, target: Path) -> None:
    context = _context(home, ssl.PROTOCOL_TLS_CLIENT)
    connection = socket.create_connection(("127.0.0.1", port))
    with context.wrap_socket(connection) as peer, target.open("wb", 0) as file:
        seen, block = blake3(), memoryview(bytearray(BLOCK_BYTES))
        for _ in range(size // BLOCK_BYTES):
            _receive(peer, block)
            seen.update(block)
            file.write(block)
        digest = memoryview(bytearray(32))
        _receive(peer, digest)
        assert digest == seen.digest()
        os.fsync(file.fileno())


def _leave_with_caller() -> None:
    sys.stdin.read()
    os._exit(0)


def _receive(peer: ssl.SSLSocket, block: memoryview) -> None:
    filled = 0
    while filled < len(block):
        filled += peer.recv_into(block[filled:])


def _context(home: Home, protocol: int) -> ssl.SSLContext:
    membership = Membership.require(home)
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(membership.certificate_path, membership.key_path)
    context.load_verify_locations(membership.root_path)
    return context


def main() -> None:
    match sys.argv[1:]:
        case ["serve", home, folder]:
            keep_buffers()
            collect_rarely()
            asyncio.run(serve(Home(Path(home)), Path(folder)))
        case ["send", home, port, folder, source]:
            keep_buffers()
            collect_rarely()
            asyncio.run(send(Home(Path(home)), int(port), Path(folder), Path(source)))
        case ["fetch", home, port, folder, digest, target]:
            keep_buffers()
            collect_rarely()
            wanted = Digest(bytes.fromhex(digest))
            asyncio.run(fetch(Home(Path(home)), int(port), Path(folder), wanted, Path(target)))
        case ["raw-serve", home, source]:
            raw_serve(Home(Path(home)), Path(source))
        case ["raw-fetch", home, port, size, target]:
            raw_fetch(Home(Path(home)), int(port), int(size), Path(target))
        case other:
            sys.exit(f"unknown: {other}")


if __name__ == "__main__":
    main()
