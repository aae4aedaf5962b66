"""Servers of gRPC alone over mutual TLS, in one process: a question without an agent behind it.

python bench/bare_grpc.py HOME:PORT...
"""

import asyncio
import sys
from typing import Any

import grpc

from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership
from dstack_mesh.v1 import auction_pb2


async def yes(request: auction_pb2.AskRequest, context: object) -> auction_pb2.AskResponse:
    """Answers each ask alike."""
    return auction_pb2.AskResponse(verdict=auction_pb2.Verdict(now=auction_pb2.Now()))


ASK: Any = grpc.unary_unary_rpc_method_handler(
    yes,  # pyright: ignore[reportArgumentType] - the stubs know synchronous ones only
    auction_pb2.AskRequest.FromString,
    auction_pb2.AskResponse.SerializeToString,
)
SERVICE = grpc.method_handlers_generic_handler("dstack_mesh.v1.AuctionService", {"Ask": ASK})


async def serve(home: Home, port: int) -> grpc.aio.Server:
    """A server of a member; it runs on return."""
    membership = Membership.require(home)
    key, shown = membership.key_path.read_bytes(), membership.certificate_path.read_bytes()
    credentials = grpc.ssl_server_credentials(
        [(key, shown)], membership.root_path.read_bytes(), require_client_auth=True
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((SERVICE,))
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    return server


async def main(addresses: list[str]) -> None:
    """Serves until the process is ended."""
    pairs = [address.rsplit(":", 1) for address in addresses]
    servers = [await serve(Home.of_environment(root), int(port)) for root, port in pairs]
    await asyncio.gather(*(server.wait_for_termination() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
