"""One way of bytes over a stream of frames, with the credits of a connection.

Whoever reads the stream hands each frame to `heard`, which never waits: what came is held up to the
credit that was granted.
"""

import asyncio
from collections.abc import Awaitable, Callable

from dstack_mesh.faults import Invalid
from dstack_mesh.tunnel.flow import Flow
from dstack_mesh.tunnel.frame import PIECE_BYTES, Broken, Credit, Data, End, Frame, Made

Say = Callable[[Frame], Awaitable[None]]
"""Says something of this way; waits while the stream takes no more."""


class Outgoing:
    """Sends what is read here, as far as the other side grants it."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._flow = Flow()
        self._granted = asyncio.Event()
        self._unwanted = asyncio.Event()

    def heard(self, frame: Frame) -> None:
        """The other side said something. Raises Invalid if it may not."""
        match frame:
            case Credit(count):
                self._flow.granted(count)
                self._granted.set()
            case Broken():
                self._unwanted.set()
                self._granted.set()
            case Made() | Data() | End():
                raise _wrong_way()

    async def run(self, read: Callable[[int], Awaitable[bytes]]) -> None:
        """Sends all until the end, or until nobody takes it. Raises OSError of what is read.

        Args:
            read: Gives at most so many bytes; none at the end.
        """
        while not self._unwanted.is_set():
            if not self._flow.may_send:
                self._granted.clear()
                await self._granted.wait()
                continue
            if not (data := await self._wanted(read)):
                break
            self._flow.send(len(data))
            await self._say(Data(data))
        await self._say(End())

    async def _wanted(self, read: Callable[[int], Awaitable[bytes]]) -> bytes:
        """The next bytes; none once nobody wants them."""
        reading = asyncio.ensure_future(read(min(PIECE_BYTES, self._flow.may_send)))
        unwanted = asyncio.ensure_future(self._unwanted.wait())
        try:
            await asyncio.wait((reading, unwanted), return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()
            unwanted.cancel()


class Incoming:
    """Writes on what comes from the other side."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._flow = Flow()
        # Bounded by the credit, as `Flow.receive` raises for more, however small the frames are.
        self._held = bytearray()
        self._came = asyncio.Event()

    def heard(self, frame: Frame) -> None:
        """The other side said something. Raises Invalid if it may not."""
        match frame:
            case Data(data):
                self._flow.receive(len(data))
                self._held += data
            case End():
                self._flow.heard_end = True
            case Made() | Credit() | Broken():
                raise _wrong_way()
        self._came.set()

    async def run(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Writes all until the end.

        Raises:
            OSError: Nobody takes it any more; the other side is told.
        """
        try:
            while not (self._flow.heard_end and not self._held):
                await self._came.wait()
                self._came.clear()
                while self._held:
                    data, self._held = bytes(self._held), bytearray()
                    await write(data)
                    if credit := self._flow.write(len(data)):
                        await self._say(Credit(credit))
        except OSError as error:
            await self._say(Broken(error.strerror or str(error)))
            raise


def _wrong_way() -> Invalid:
    return Invalid("A stream goes the other way.", "It is read by whoever sends.", code="credit")
