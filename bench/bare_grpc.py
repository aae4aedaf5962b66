"""Servers of gRPC alone over mutual TLS, in one process: a question without an agent behind it.

python bench/bare_grpc.py HOME:PORT...
"""

import asyncio
import sys

import grpc

from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership
from dstack_mesh.v1 import auction_pb2, auction_pb2_grpc


class Yes(auction_pb2_grpc.AuctionServiceServicer):
    """Answers each ask alike."""

    async def Ask(
        self, request: auction_pb2.AskRequest, context: object
    ) -> auction_pb2.AskResponse:
        return auction_pb2.AskResponse(verdict=auction_pb2.Verdict(now=auction_pb2.Now()))


async def serve(home: Home, port: int) -> grpc.aio.Server:
    """A server of a member; it runs on return."""
    membership = Membership.require(home)
    key, shown = membership.key_path.read_bytes(), membership.certificate_path.read_bytes()
    credentials = grpc.ssl_server_credentials(
        [(key, shown)], membership.root_path.read_bytes(), require_client_auth=True
    )
    server = grpc.aio.server()
    auction_pb2_grpc.add_AuctionServiceServicer_to_server(Yes(), server)
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
