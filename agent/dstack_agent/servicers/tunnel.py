"""TunnelService of an agent: the ways to what its jobs listen on, and commands beside them."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from dstack_agent.jobs.chronicle import Chronicle
from dstack_agent.jobs.doorkeeper import Doorkeeper, Doors, is_open
from dstack_agent.servicers.auction import asker_of
from dstack_agent.servicers.exec import Attendant
from dstack_mesh.faults import Busy, Invalid, MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.tunnel.ferry import Ferry
from dstack_mesh.tunnel.frame import Broken, Frame, Made
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_mesh.v1 import tunnel_pb2_grpc as rpc
from dstack_mesh.wire.caller import Caller, caller
from dstack_mesh.wire.tunnel import frame_from_wire, frame_to_wire
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire import convert, fields
from dstack_scheduler.wire.errand import errand_from_wire

MOST_STREAMS = 16
"""Open streams of one peer: one for each command that forwards something."""

MOST_CONNECTIONS = 256
"""Of one peer, over all its streams. Each may hold a window each way: 128 MiB in all."""

DIAL_SECONDS = 5.0

Context = grpc.aio.ServicerContext[Any, Any]
Write = Callable[[pb.CarryResponse], Awaitable[None]]


@frozen
class Hearing:
    """Who hears of it.

    Attributes:
        opened: Somebody gets at what a job listens on.
        entered: Somebody runs a command beside a job.
    """

    opened: Callable[[Caller, JobKey], None]
    entered: Callable[[Caller, JobKey], None]


@dataclass(slots=True)
class Load:
    """What the streams of one peer take together."""

    streams: int = 0
    connections: int = 0


class TunnelServicer(rpc.TunnelServiceServicer):
    """Lets those who submitted jobs reach what these serve, and run commands beside them."""

    def __init__(self, doorkeeper: Doorkeeper, hearing: Hearing) -> None:
        self._doorkeeper = doorkeeper
        self._hearing = hearing
        # As many entries as there are members.
        self._loads: defaultdict[Caller, Load] = defaultdict(Load)

    async def Apps(self, request: pb.AppsRequest, context: Context) -> pb.AppsResponse:
        key = convert.key_from_wire(request.key, newest=True)
        key, _ = self._doorkeeper.admit(key, asker_of(context))
        return doors_to_wire(await self._doorkeeper.doors(key))

    # Writes by itself instead of yielding: several connections share the stream.
    async def Carry(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[pb.CarryRequest], context: Context
    ) -> None:
        load = self._loads[caller(context)]
        begin = await anext(request_iterator, None)
        if begin is None:
            return
        if begin.WhichOneof("kind") != "begin":
            raise Invalid("The stream does not begin with a job.", code="no-begin")
        wanted = convert.key_from_wire(begin.begin, newest=True)
        key, chronicle = self._doorkeeper.admit(wanted, asker_of(context))
        with _one_more(load):
            self._hearing.opened(caller(context), key)
            await context.write(pb.CarryResponse(begun=pb.Begun()))
            tunnel = Tunnel(self._doorkeeper, key, context.write, load)
            await tunnel.serve(request_iterator, chronicle)

    async def Exec(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[pb.ExecRequest], context: Context
    ) -> None:
        load = self._loads[caller(context)]
        begin = await anext(request_iterator, None)
        if begin is None:
            return
        if begin.WhichOneof("kind") != "begin":
            raise Invalid("The stream does not begin with a command.", code="no-begin")
        wanted, errand = errand_from_wire(begin.begin)
        key, _ = self._doorkeeper.admit(wanted, asker_of(context))
        with _one_more(load):
            self._hearing.entered(caller(context), key)
            async with self._doorkeeper.visit(key, errand) as visit:
                await context.write(pb.ExecResponse(begun=pb.Begun()))
                await Attendant(visit, context.write).serve(request_iterator)


@contextlib.contextmanager
def _one_more(load: Load) -> Any:
    if load.streams >= MOST_STREAMS:
        raise Busy(
            "This peer has too many tunnels open.",
            f"At most {MOST_STREAMS}.",
            "End some of the commands that forward apps.",
            code="too-many-tunnels",
        )
    load.streams += 1
    try:
        yield
    finally:
        load.streams -= 1


@dataclass(slots=True)
class Tunnel:
    """One open stream."""

    doorkeeper: Doorkeeper
    key: JobKey
    write: Write
    load: Load
    _ferry: Ferry = field(init=False)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _last: int = -1
    _connections: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def __post_init__(self) -> None:
        self._ferry = Ferry(self._send, self._gone)

    async def serve(self, requests: AsyncIterator[pb.CarryRequest], chronicle: Chronicle) -> None:
        """Serves until the client ends the stream or the job ended."""
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read(requests, group))
                ended = group.create_task(until_shut(chronicle))
                await asyncio.wait((reading, ended), return_when=asyncio.FIRST_COMPLETED)
                for task in (reading, ended, *self._connections):
                    task.cancel()
        finally:
            self._ferry.close()  # of a task that was cancelled before it began nothing ran

    async def _read(
        self, requests: AsyncIterator[pb.CarryRequest], group: asyncio.TaskGroup
    ) -> None:
        async for request in requests:
            match request.WhichOneof("kind"):
                case "open":
                    await self._open(request.open, group)
                case "frame":
                    frame = frame_from_wire(request.frame)
                    if frame is not None:
                        self._ferry.heard(request.frame.connection, frame)
                case "begin":
                    raise Invalid("The stream begins twice.", code="no-begin")
                case None:
                    continue

    async def _open(self, wire: pb.Open, group: asyncio.TaskGroup) -> None:
        number = wire.connection
        if number <= self._last:
            raise Invalid("A number of a connection is not new.", f"{number}.", code="no-number")
        self._last = number
        if self.load.connections >= MOST_CONNECTIONS:
            why = f"There are {MOST_CONNECTIONS} connections already."
            await self._send(number, Broken(why))
            return
        self.load.connections += 1
        self._ferry.expect(number)
        task = group.create_task(self._connect(number, wire.port))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, number: int, port: int) -> None:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                spot = await self.doorkeeper.spot(self.key, port)
                reader, writer = await asyncio.open_connection(spot.host, spot.port)
        except (OSError, TimeoutError, MeshError) as error:
            await self._send(number, Broken(str(error)))
        else:
            with contextlib.closing(writer), self.doorkeeper.connected(self.key):
                await self._send(number, Made())
                await self._ferry.carry(number, reader, writer)
        finally:
            self._ferry.forget(number)

    def _gone(self, number: int) -> None:
        self.load.connections -= 1

    async def _send(self, number: int, frame: Frame) -> None:
        async with self._writing:
            await self.write(pb.CarryResponse(frame=frame_to_wire(number, frame)))


async def until_shut(chronicle: Chronicle) -> None:
    """Returns once a job's commands do not run any more."""
    while is_open(chronicle):
        strokes = chronicle.bell.strokes
        if is_open(chronicle):
            await chronicle.bell.later_than(strokes)


def doors_to_wire(doors: Doors) -> pb.AppsResponse:
    return pb.AppsResponse(
        key=convert.key_to_wire(doors.key),
        doors=[
            pb.Door(port=fields.port(port), listening=spot is not None)
            for port, spot in zip(doors.ports, doors.spots, strict=True)
        ],
        apps=[convert.app_to_wire(app) for app in doors.apps],
        token=doors.token,
        hosts=doors.hosts,
        on_machine=doors.on_machine,
        login=doors.login and pb.Login(user=doors.login.user, folder=doors.login.folder),
    )
