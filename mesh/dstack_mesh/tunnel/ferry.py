"""One side of a stream of frames: carries bytes between it and this machine's sockets.

Whoever reads the stream hands each frame to `heard`, which never waits: what came is held up to the
credit that was granted. Everything that waits does so in tasks of its own connection, so a socket
that is slow delays nobody else.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from dstack_mesh.faults import Refused, Unreachable
from dstack_mesh.tunnel.flow import Flow
from dstack_mesh.tunnel.frame import PIECE_BYTES, Broken, Credit, Data, End, Frame, Made

Send = Callable[[int, Frame], Awaitable[None]]
"""Says something of a connection, by its number; waits while the stream takes no more."""


class Ferry:
    """The connections of one stream. For one event loop.

    Args:
        send: Writes to the stream; may be called by several tasks at once.
        gone: Hears which connection is over, at the end of it.
    """

    def __init__(self, send: Send, gone: Callable[[int], None] = lambda number: None) -> None:
        self._send = send
        self._gone = gone
        self._carried: dict[int, _Carried] = {}

    def expect(self, number: int) -> None:
        """A connection is being made: what comes for it is held, up to its credit."""
        self._carried[number] = _Carried(number, self._send)

    def knows(self, number: int) -> bool:
        """Whether a connection of this number goes on."""
        return number in self._carried

    async def carry(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carries an expected connection to its end, and closes the socket.

        Cancelled, it breaks the connection off.
        """
        try:
            await self._carried[number].run(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # what a socket that nobody reads was to get would stay
            raise
        finally:
            self.forget(number)
            writer.close()

    def forget(self, number: int) -> None:
        """Drops a connection that was expected and did not come about."""
        if self._carried.pop(number, None) is not None:
            self._gone(number)

    def close(self) -> None:
        """Drops every connection that is left: nobody carries them any more."""
        for number in list(self._carried):
            self.forget(number)

    async def made(self, number: int) -> None:
        """Returns once the other side has made an expected connection.

        Raises:
            Refused: It cannot, and says why.
            Unreachable: The stream is gone.
        """
        carried = self._carried[number]
        await carried.answered.wait()
        if carried.broken:
            self.forget(number)
            if carried.why is None:
                raise Unreachable("The way to the job broke.", code="tunnel-ended")
            raise Refused("The job is not reached.", carried.why, code="not-listening")

    def break_off(self) -> None:
        """The stream is gone, and every connection with it."""
        for carried in list(self._carried.values()):
            carried.break_off(None)

    def heard(self, number: int, frame: Frame) -> None:
        """The other side said something. Raises Invalid if it may not."""
        carried = self._carried.get(number)
        if carried is not None:  # of one that is over here, the rest is on its way still
            carried.heard(frame)


@dataclass(slots=True)
class _Carried:
    number: int
    send: Send
    flow: Flow = field(default_factory=Flow)
    # Bounded by the credit, as `Flow.receive` raises for more, however small the frames are.
    held: bytearray = field(default_factory=bytearray)
    broken: bool = False
    why: str | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    granted: asyncio.Event = field(default_factory=asyncio.Event)

    def heard(self, frame: Frame) -> None:
        match frame:
            case Made():
                self.answered.set()
            case Data(data):
                self.flow.receive(len(data))
                self.held += data
            case Credit(count):
                self.flow.granted(count)
                self.granted.set()
            case End():
                self.flow.heard_end = True
            case Broken(why):
                self.break_off(why)
        self.came.set()

    def break_off(self, why: str | None) -> None:
        """Has both ways end; `why` is None if the other side does not say it."""
        self.broken, self.why = True, why
        self.answered.set()
        self.came.set()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._outward(reader))
                ways.create_task(self._inward(writer))
        except* (OSError, _OtherSideBroke) as trouble:
            writer.transport.abort()
            if not self.broken:
                await self.send(self.number, Broken(str(trouble.exceptions[0])))

    async def _outward(self, reader: asyncio.StreamReader) -> None:
        """From the socket to the stream."""
        while True:
            while not self.flow.may_send:
                self.granted.clear()
                await self.granted.wait()
            data = await reader.read(min(PIECE_BYTES, self.flow.may_send))
            if not data:
                break
            self.flow.send(len(data))
            await self.send(self.number, Data(data))
        self.flow.ended = True
        await self.send(self.number, End())

    async def _inward(self, writer: asyncio.StreamWriter) -> None:
        """From the stream to the socket."""
        writer.transport.set_write_buffer_limits(0)  # what it holds is counted as held
        while True:
            await self.came.wait()
            self.came.clear()
            while self.held:
                data, self.held = self.held, bytearray()
                await self._write(writer, data)
            if self.broken:
                raise _OtherSideBroke
            if self.flow.heard_end and not self.held:
                writer.write_eof()
                return

    async def _write(self, writer: asyncio.StreamWriter, data: bytearray) -> None:
        writer.write(data)
        await writer.drain()
        if credit := self.flow.write(len(data)):
            await self.send(self.number, Credit(credit))


class _OtherSideBroke(Exception):
    """Ends both ways of a connection."""
