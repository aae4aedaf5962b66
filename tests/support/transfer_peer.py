"""One end of a transfer, as a process that can be killed.

`serve HOME STORE PORT_FILE` serves a store to the mesh; `send|fetch HOME STORE PORT DIGEST` moves a
tree and prints how many bytes of chunks travelled.
"""

import asyncio
import sys
from pathlib import Path

from dstack_agent.servicers.transfer import TransferServicer, add_transfer
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, Digest
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.server import listen_tcp, make_server
from dstack_mesh.wire.transfer import TransferClient


async def serve(home: str, store: str, port_file: str) -> None:
    """Serves until killed; writes its port down once it listens."""
    membership = Membership.load(Home(Path(home)))
    assert membership
    server = make_server()
    servicer = TransferServicer(ChunkStore(Path(store)), lambda folder: None)
    add_transfer(servicer, server)
    port = listen_tcp(server, membership, "127.0.0.1", 0)
    await server.start()
    draft = Path(port_file).with_suffix(".new")
    draft.write_text(str(port))
    draft.replace(port_file)
    await asyncio.Event().wait()


async def move(what: str, home: str, folder: str, port: str, digest: str) -> None:
    """Moves a tree one way or the other."""
    store = ChunkStore(Path(folder))
    channels = Channels(Home(Path(home)))
    client = TransferClient(channels.to_unknown(Address(f"127.0.0.1:{port}")), store, "peer")
    call = client.send_tree if what == "send" else client.fetch_tree
    print("ready", flush=True)
    print(await call(Digest(bytes.fromhex(digest))), flush=True)
    await channels.close()
    store.close()


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    asyncio.run(serve(*rest) if verb == "serve" else move(verb, *rest))
