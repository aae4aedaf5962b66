"""Where a peer is called: TLS for members on a port, a Unix socket for the owner. Never plaintext.

server = make_server()
add_MembershipServiceServicer_to_server(servicer, server)
port = listen_tcp(server, membership, "0.0.0.0", 7420)
lease = listen_local(server, home.agent_socket)
await server.start()
"""

import errno
import fcntl
import os
import socket as sockets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.trouble import of_the_machine
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.caller import Caller, Member, Owner, Stranger, caller
from dstack_mesh.wire.guard import GuardInterceptor
from dstack_mesh.wire.keepalive import KEEPALIVE
from dstack_mesh.wire.ownership import open_to, shut_to
from dstack_mesh.wire.rates import Pacing
from dstack_mesh.wire.rights import services_for_members
from dstack_mesh.wire.standings import Standings

__all__ = [
    "Caller",
    "Health",
    "LocalListener",
    "Member",
    "Owner",
    "Stranger",
    "add_standard_services",
    "bind",
    "caller",
    "listen_local",
    "listen_tcp",
    "make_server",
]

OPTIONS: list[tuple[str, int]] = [
    *KEEPALIVE,
    # Strictly below the callers' interval, or their pings count as abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # On by default: a second agent on the same port would steal half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 5_000),
    # High on purpose: a low cap would let a neighbour lock members out.
    ("grpc.max_allowed_incoming_connections", 2_048),
    ("grpc.max_concurrent_streams", 128),
]

SUN_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux."""


def make_server(
    *outer: grpc.aio.ServerInterceptor, standings: Standings | None = None
) -> grpc.aio.Server:
    """A server whose every method is guarded. Add servicers, then listen, then start.

    Args:
        outer: Interceptors that see every call before the guard does.
        standings: What the roster says of callers; without, their certificates say everything.
    """
    guard = GuardInterceptor(standings, Pacing())
    return grpc.aio.server(interceptors=[*outer, guard], options=OPTIONS)


class Health:
    """What the standard health service says: SERVING from the server's start until `leave`."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    async def leave(self) -> None:
        """Says NOT_SERVING from now on, so that callers go elsewhere before the server stops."""
        await self._servicer.enter_graceful_shutdown()


def add_standard_services(server: grpc.aio.Server) -> Health:
    """Adds grpc.health.v1 and reflection."""
    from grpc_health.v1 import health, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    # The stubs know only the synchronous part of these packages.
    untyped: Any = (health, health_pb2_grpc, reflection)
    asynchronous, registration, reflected = untyped
    servicer = asynchronous.aio.HealthServicer()
    registration.add_HealthServicer_to_server(servicer, server)
    reflected.enable_server_reflection(services_for_members(), server)
    return Health(servicer)


def listen_tcp(server: grpc.aio.Server, membership: Membership, host: str, port: int) -> int:
    """Opens a port for members of the mesh; returns it (port 0 chooses a free one).

    Raises:
        Refused: The port is taken, may not be opened, or the certificate is not valid now.
    """
    membership.check_valid(datetime.now(UTC))
    present = _Certificate(membership)
    credentials = grpc.dynamic_ssl_server_credentials(
        present.configuration(), present.renewed, require_client_authentication=True
    )
    return bind(server, host, port, credentials)


class _Certificate:
    """The certificate that a port shows: the one on disk, also after it was renewed there."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._key = membership.key_path.read_bytes()
        self._stamp = self._seen()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        known = self._membership
        return grpc.ssl_server_certificate_configuration(
            [(self._key, known.certificate_path.read_bytes())],
            root_certificates=known.root_path.read_bytes(),
        )

    def renewed(self) -> Any:
        """What gRPC asks before each handshake, in a thread of its own; None: as before."""
        stamp = self._seen()
        if stamp in (None, self._stamp) or self._membership.key_path.read_bytes() != self._key:
            return None  # a new key is another peer, as which the next start of the agent serves
        self._stamp = stamp
        return self.configuration()

    def _seen(self) -> tuple[int, int] | None:
        try:
            file = self._membership.certificate_path.stat()
        except OSError:  # the home left; whoever is served goes on until the agent ends
            return None
        return file.st_ino, file.st_mtime_ns


def bind(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials) -> int:
    """Opens a port with these credentials. Raises Refused with what stands in the way."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # gRPC says only that it failed, and that in a line of its own on stderr; the kernel says why.
    number = _errno_of_bind(host, port)
    if number:
        raise _why_not(number, port, target)
    try:
        return server.add_secure_port(target, credentials)
    except RuntimeError as failed:
        raise _why_not(_errno_of_bind(host, port) or errno.EADDRINUSE, port, target) from failed


def _why_not(number: int, port: int, target: str) -> MeshError:
    reason = os.strerror(number) if number > 0 else "there is no such name"
    match number:
        case errno.EACCES | errno.EPERM:
            hint, code = "Choose a port above 1023: `--listen HOST:PORT`.", "port-forbidden"
        case errno.EADDRNOTAVAIL | sockets.EAI_NONAME | sockets.EAI_AGAIN:
            hint = "Choose an address of this machine, or 0.0.0.0: `--listen HOST:PORT`."
            code = "no-such-address"
        case _:
            hint = (
                f"See who has it with `ss -ltnp 'sport = :{port}'`, or choose another: "
                "`--listen HOST:PORT` (port 0 takes any free one)."
            )
            code = "port-taken"
    return Refused(f"Port {port} cannot be opened.", f"{target}: {reason}.", hint, code)


def _errno_of_bind(host: str, port: int) -> int:
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    with sockets.socket(family, sockets.SOCK_STREAM) as probe:
        # As gRPC does: what a closed connection left behind does not count.
        probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as failed:
            return failed.errno or errno.EADDRINUSE
    return 0


@frozen
class LocalListener:
    """An open Unix socket, the lock that makes it the only one of its home, and what callers show
    to be the owner: whoever does not may ask after the agent's health and nothing else."""

    path: Path
    lock: int

    def close(self) -> None:
        """Removes the socket and lets another agent have the home. Stop the server first."""
        self.path.unlink(missing_ok=True)
        shut_to(self.path)
        os.close(self.lock)


def listen_local(server: grpc.aio.Server, socket: Path) -> LocalListener:
    """Opens the owner's socket. A socket that a killed agent left behind is replaced.

    Whoever connects is the owner only with the secret that `ownership` keeps beside it.

    The lock lives as long as the process, or until `close`.

    Raises:
        Refused: An agent already runs in this home, or the path is too long for a socket.
        Busy: The disk is full.
        Forbidden: The home may not be written.
    """
    if len(os.fsencode(socket)) > SUN_PATH_BYTES:
        raise Refused(
            "The home's path is too long for a Unix socket.",
            f"{socket} has {len(os.fsencode(socket))} bytes; {SUN_PATH_BYTES} fit.",
            "Choose a shorter home: `--home DIR` or DSTACK_HOME.",
            code="path-too-long",
        )
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket.parent.chmod(0o700)
    lock = _lock_home(socket)
    try:
        socket.unlink(missing_ok=True)
        open_to(socket)
        server.add_secure_port(
            f"unix:{socket}", grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
        )
        socket.chmod(0o600)
    except (OSError, RuntimeError) as failed:
        os.close(lock)
        said = of_the_machine(failed)
        unknown = Refused("The local socket cannot be opened.", f"{socket}: {failed}.")
        raise said or unknown from failed
    return LocalListener(socket, lock)


def _lock_home(socket: Path) -> int:
    # A lock, not a connection attempt: two agents that start at once must not both win, and the
    # kernel drops it however its holder dies.
    lock = os.open(socket.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Refused(
            "An agent already runs in this home.",
            f"It serves {socket}.",
            "See it with `dstack-runner status`, or choose another home: `--home DIR`.",
            code="already-running",
        ) from None
    return lock
