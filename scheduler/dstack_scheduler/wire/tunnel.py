"""The client of TunnelService: what a job has to be opened, and connections to it."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import grpc.aio

from dstack_mesh.faults import Refused, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.tunnel.ferry import Ferry
from dstack_mesh.tunnel.frame import Broken, Frame
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_mesh.v1.tunnel_pb2_grpc import TunnelServiceStub
from dstack_mesh.wire.ending import Ending
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.tunnel import frame_from_wire, frame_to_wire
from dstack_mesh.wire.writing import Writing
from dstack_scheduler.app import App, Login
from dstack_scheduler.job import MOST_PORTS, JobKey
from dstack_scheduler.wire import convert, fields

ENDED = "tunnel-ended"

ASK_SECONDS = 5.0

MADE_SECONDS = 20.0
"""An agent dials a job for 5 s at most; after so long it is not waited for."""

_HOSTS = 16
_USER = re.compile(r"[\w.][\w.@+-]{0,254}\$?\Z")

_Call = grpc.aio.StreamStreamCall[pb.CarryRequest, pb.CarryResponse]


@frozen
class Offered:
    """What an attempt has to be opened, as its agent says it.

    Attributes:
        ports: As the job sees them.
        listening: Whether it listens on each of them.
        hosts: Names that the job's own words may use for its machine.
        on_machine: The ports are the machine's own: whoever is on it needs no tunnel.
        login: Whom its SSH server lets in; None without one.
    """

    key: JobKey
    ports: tuple[int, ...]
    listening: tuple[bool, ...]
    apps: tuple[App, ...]
    token: str
    hosts: tuple[str, ...]
    on_machine: bool
    login: Login | None = None


class TunnelClient:
    """Asks one agent. `name` is what errors call it."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = TunnelServiceStub(channel)
        self._name = name

    async def apps(self, key: JobKey) -> Offered:
        """What an attempt has; attempt 0 is the newest. Raises MeshError; Refused if it is over."""
        request = pb.AppsRequest(key=convert.key_to_wire(key))
        with translated(self._name):
            return offered_from_wire(await self._stub.Apps(request, timeout=ASK_SECONDS))

    @asynccontextmanager
    async def carry(self, key: JobKey) -> AsyncGenerator["Carriage"]:
        """A stream for connections to an attempt; its `run` must run."""
        call = self._stub.Carry()
        try:
            yield Carriage(call, key, self._name)
        finally:
            call.cancel()


class Carriage:
    """An open stream of connections."""

    def __init__(
        self, call: _Call, key: JobKey, peer: str, made_seconds: float = MADE_SECONDS
    ) -> None:
        self._call = call
        self._key = key
        self._peer = peer
        self._made_seconds = made_seconds
        self._ending = Ending(call, peer)
        self._over = f"{peer} ended the tunnel."
        self._writing = Writing(call, self._ending, self._over, ENDED)
        self._ferry = Ferry(self._send)
        self._next = 0

    async def run(self, begun: Callable[[], object]) -> None:
        """Reads the stream until it ends; connections end with it. Raises MeshError.

        Args:
            begun: Is called once the agent let us in.
        """
        try:
            await self._writing.write(pb.CarryRequest(begin=convert.key_to_wire(self._key)))
            async for response in self._call:
                if response.WhichOneof("kind") == "begun":
                    begun()
                elif (frame := frame_from_wire(response.frame)) is not None:
                    self._ferry.heard(response.frame.connection, frame)
        except grpc.aio.AioRpcError as failed:
            raise await self._ending.why(failed) from failed
        finally:
            self._ferry.break_off()
        raise Unreachable(self._over, code=ENDED)

    async def carry(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carries a connection to a port of the job, by its index, to its end.

        Raises:
            Refused: The job does not listen.
            Unreachable: The stream broke before the connection was made: no byte was read.
        """
        self._next = number = self._next + 1
        self._ferry.expect(number)
        try:
            await self._writing.write(pb.CarryRequest(open=pb.Open(connection=number, port=port)))
            async with asyncio.timeout(self._made_seconds):
                await self._ferry.made(number)
        except TimeoutError as error:
            self._ferry.forget(number)
            await self._send(number, Broken())
            why = f"{self._peer} does not say whether it listens."
            raise Refused("The job is not reached.", why, code="not-listening") from error
        except BaseException:
            self._ferry.forget(number)
            raise
        await self._ferry.carry(number, reader, writer)

    async def _send(self, number: int, frame: Frame) -> None:
        await self._writing.write(pb.CarryRequest(frame=frame_to_wire(number, frame)))


def offered_from_wire(wire: pb.AppsResponse) -> Offered:
    """Raises Invalid."""
    doors = fields.items(wire.doors, "Ports", MOST_PORTS)
    return Offered(
        key=convert.key_from_wire(wire.key),
        ports=tuple(fields.port(door.port) for door in doors),
        listening=tuple(door.listening for door in doors),
        apps=convert.apps_from_wire(wire.apps, len(doors)),
        token=fields.line(wire.token, "The token"),
        hosts=tuple(
            fields.line(host, "A host") for host in fields.items(wire.hosts, "Hosts", _HOSTS)
        ),
        on_machine=wire.on_machine,
        login=_login_from_wire(wire.login) if wire.HasField("login") else None,
    )


def _login_from_wire(wire: pb.Login) -> Login:
    user = fields.line(wire.user, "The user")
    if not _USER.match(user):
        raise fields.refuse("The user", user, "it is no name of one")
    return Login(user, fields.line(wire.folder, "The folder", fields.PATH))
