"""One Exec stream: a command beside a job, and its three streams of bytes with their credits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest

from dstack_agent.executor.port import Visit
from dstack_mesh.faults import Invalid
from dstack_mesh.tunnel.descriptors import read_some, write_all
from dstack_mesh.tunnel.frame import Frame
from dstack_mesh.tunnel.way import Incoming, Outgoing
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_mesh.wire.tunnel import frame_from_wire, frame_to_wire
from dstack_scheduler.errand import STDERR, STDIN, STDOUT, Outcome
from dstack_scheduler.wire.errand import outcome_to_wire, window_from_wire

Write = Callable[[pb.ExecResponse], Awaitable[None]]

LEAVE_SECONDS = 5.0
"""For the client to go, once it was told of the end."""


@dataclass(slots=True)
class Attendant:
    """One open stream."""

    visit: Visit
    write: Write
    _stdin: Incoming = field(init=False)
    _outputs: dict[int, Outgoing] = field(init=False)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._stdin = Incoming(partial(self._say, STDIN))
        self._outputs = {
            number: Outgoing(partial(self._say, number)) for number in (STDOUT, STDERR)
        }

    async def serve(self, requests: AsyncIterator[pb.ExecRequest]) -> None:
        """Serves until the command ended and all that it wrote was taken, or the client went."""
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(requests))
            carrying = tasks.create_task(self._carry())
            await asyncio.wait((reading, carrying), return_when=asyncio.FIRST_COMPLETED)
            if carrying.done() and carrying.exception() is None:
                # Who writes to a call at the moment of its end loses what it was told.
                await asyncio.wait((reading,), timeout=LEAVE_SECONDS)
            reading.cancel()
            carrying.cancel()

    async def _read(self, requests: AsyncIterator[pb.ExecRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("kind"):
                case "frame":
                    frame = frame_from_wire(request.frame)
                    if frame is not None:
                        self._heard(request.frame.connection, frame)
                case "window":
                    await self.visit.resize(window_from_wire(request.window))
                case "interrupt":
                    await self.visit.interrupt()
                case "begin":
                    raise Invalid("The stream begins twice.", code="no-begin")
                case None:
                    continue

    def _heard(self, number: int, frame: Frame) -> None:
        if number == STDIN:
            self._stdin.heard(frame)
        elif number in self._outputs:
            self._outputs[number].heard(frame)
        else:
            raise Invalid("A command has no such stream.", f"{number}.", code="no-number")

    async def _carry(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(self._feed())
            sending = [
                tasks.create_task(outgoing.run(partial(self._read_of, descriptor)))
                for outgoing, descriptor in zip_longest(self._outputs.values(), self.visit.outputs)
            ]
            outcome = await self.visit.outcome()
            self._over.set()
            await asyncio.gather(*sending)
            feeding.cancel()
        await self._tell(outcome)

    async def _feed(self) -> None:
        with suppress(OSError):  # it reads no more, and the client was told
            await self._stdin.run(partial(write_all, self.visit.stdin))
        self.visit.end_input()

    async def _read_of(self, descriptor: int | None, most: int) -> bytes:
        """What there is; nothing of an error that goes to the terminal too."""
        return b"" if descriptor is None else await read_some(descriptor, most, self._over)

    async def _tell(self, outcome: Outcome) -> None:
        async with self._writing:
            await self.write(pb.ExecResponse(ended=outcome_to_wire(outcome)))

    async def _say(self, number: int, frame: Frame) -> None:
        async with self._writing:
            await self.write(pb.ExecResponse(frame=frame_to_wire(number, frame)))
