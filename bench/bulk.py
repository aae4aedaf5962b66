"""1 GiB that nobody can compress, agent to laptop, against scp and rsync over ssh.

Ours: another process serves it from a chunk store over mutual TLS; a new process fetches it into a
file, with every chunk hashed on both sides and the file synced. The same as a person has it:
`dstack cp` of what a run kept on an agent. Theirs: a new scp or rsync, encrypted and neither hashed
nor synced unless the row says so. All on loopback, in turns, each beginning with the process.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from parts import Pair, alternate, pair, seconds, table
from ssh_host import SshHost, ssh_host

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
from support.lab import project

TIMES = 3
MIB = 1 << 20


async def serve(home: Home, folder: Path) -> None:
    """The agent's side, until standard input ends; prints its port."""
    store = ChunkStore(folder)
    server = make_server()
    add_transfer(TransferServicer(store), server)
    port = listen_tcp(server, Membership.require(home), "127.0.0.1", 0)
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    store.close()


async def fetch(home: Home, address: Address, digest: Digest, target: Path) -> None:
    """The laptop's side, with an empty store."""
    with tempfile.TemporaryDirectory(dir=target.parent) as empty:
        store = ChunkStore(Path(empty))
        channels = Channels(home)
        channel = channels.to_peer(Membership.require(home).peer_id, address)
        fetched = await TransferClient(channel, store).fetch_into(digest, target)
        assert fetched.received_bytes == fetched.size_bytes
        await channels.close()
        store.close()


def process(*arguments: object) -> list[str]:
    """This module as a process of its own."""
    return [sys.executable, __file__, *map(str, arguments)]


def clear(target: Path) -> None:
    """An empty folder, with nothing left to write from before."""
    subprocess.run(("rm", "-rf", str(target)), check=True)
    target.mkdir()
    os.sync()


def keep_artifact(peers: Pair, source: Path) -> None:
    """A run on the agent whose artifact holds a file; `@` names it from then on."""
    code = project(
        peers.folder / "code",
        "workflows:\n  - name: make\n    provider: bash\n    commands:\n"
        f"      - cp {source} out/blob\n    artifacts:\n      - out\n",
    )
    peers.laptop.dstack("run", "make", "--remote", cwd=code, timeout=600, check=True)


def compare(folder: Path, peers: Pair, host: SshHost, mebibytes: int) -> None:
    from dstack_mesh.trust.authority import create_mesh

    home = Home(folder / "home")
    home.prepare()
    create_mesh(home, "bench", datetime.now(UTC))
    source = folder / "artifact" / "blob"
    source.parent.mkdir()
    with source.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MIB))
    store = ChunkStore(folder / "store")
    saving = seconds(lambda: save_tree(store, source.parent))
    digest = save_tree(store, source.parent).digest
    store.close()
    keep_artifact(peers, source)
    target = folder / "target"
    ssh = " ".join(("ssh", "-p", str(host.port), *host.options))

    with subprocess.Popen(
        process("serve", home.root, folder / "store"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin and server.stdout
        address = f"127.0.0.1:{int(server.stdout.readline())}"

        def timed(*command: str) -> float:
            clear(target)
            return seconds(lambda: subprocess.run(command, check=True))

        def ours() -> float:
            return timed(*process("fetch", home.root, address, digest.hex(), target / "a"))

        def cp() -> float:
            clear(target)
            copy = ("cp", "@", "out/blob", str(target / "b"))
            return seconds(lambda: peers.laptop.dstack(*copy, check=True))

        def scp() -> float:
            where = f"{host.target}:{source}"
            return timed("scp", "-q", "-P", str(host.port), *host.options, where, str(target))

        def rsync(*flags: str) -> float:
            where = f"{host.target}:{source}"
            return timed("rsync", "-W", *flags, "-e", ssh, where, str(target))

        clear(target)
        ours()
        assert (target / "a" / "blob").read_bytes() == source.read_bytes()
        cp()
        assert (target / "b").read_bytes() == source.read_bytes()
        mesh, user, copied, synced, plain = alternate(
            TIMES, ours, cp, scp, lambda: rsync("--fsync"), rsync
        )
        server.stdin.close()

    size = mebibytes * MIB / 1e6
    table(
        f"{mebibytes} MiB, agent to laptop, median of {TIMES}",
        [
            ("dstack, mTLS, hashed twice, synced", f"{size / mesh:.0f} MB/s", "1.00"),
            ("dstack cp @ out/blob, the same", f"{size / user:.0f} MB/s", f"{user / mesh:.2f}"),
            ("scp", f"{size / copied:.0f} MB/s", f"{copied / mesh:.2f}"),
            ("rsync -W over ssh", f"{size / plain:.0f} MB/s", f"{plain / mesh:.2f}"),
            ("rsync -W --fsync over ssh", f"{size / synced:.0f} MB/s", f"{synced / mesh:.2f}"),
            ("target: theirs / ours", "", ">= 1.50"),
            ("saving it to the store first", f"{size / saving:.0f} MB/s", ""),
        ],
    )


def main() -> None:
    keep_buffers()
    collect_rarely()
    match sys.argv[1:]:
        case ["serve", home, folder]:
            asyncio.run(serve(Home(Path(home)), Path(folder)))
        case ["fetch", home, address, digest, target]:
            wanted = Digest(bytes.fromhex(digest))
            asyncio.run(fetch(Home(Path(home)), Address(address), wanted, Path(target)))
        case [*size]:
            with (
                ssh_host() as host,
                pair() as peers,
                tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
            ):
                compare(Path(folder), peers, host, int(size[0]) if size else 1024)


if __name__ == "__main__":
    main()
