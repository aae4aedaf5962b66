"""Somebody who stands between a newcomer and the listener of an invitation and passes calls on."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from dstack_mesh.ids import Address
from dstack_mesh.trust.authority import throw_away_certificate
from dstack_mesh.v1 import admission_pb2 as pb
from dstack_mesh.v1 import admission_pb2_grpc as rpc


@dataclass(slots=True)
class Relay(rpc.AdmissionServiceServicer):
    """Passes everything on, with a certificate of its own, and keeps what it saw."""

    onward: rpc.AdmissionServiceAsyncStub
    address: Address
    greeted: int = 0
    proofs: list[bytes] = field(default_factory=list[bytes])

    async def Greet(self, request: pb.GreetRequest, context: Any) -> pb.GreetResponse:
        self.greeted += 1
        return await self.onward.Greet(request, timeout=10)

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        self.proofs.append(request.joiner_proof)
        return await self.onward.Join(request, timeout=10)


@asynccontextmanager
async def relay(target: Address) -> AsyncGenerator[Relay]:
    """One that stands before the listener at `target`."""
    host, _, port = target.rpartition(":")
    leaf = ssl.get_server_certificate((host, int(port)))
    trusting = grpc.ssl_channel_credentials(leaf.encode())
    options = [("grpc.ssl_target_name_override", "mesh-join")]
    key, certificate = throw_away_certificate(datetime.now(UTC), timedelta(minutes=5))
    server = grpc.aio.server()
    opened = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)])
    )
    async with grpc.aio.secure_channel(target, trusting, options=options) as channel:
        between = Relay(rpc.AdmissionServiceStub(channel), Address(f"127.0.0.1:{opened}"))
        rpc.add_AdmissionServiceServicer_to_server(between, server)
        await server.start()
        try:
            yield between
        finally:
            await server.stop(0)
