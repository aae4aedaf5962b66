"""The client of a command beside a job, and its messages."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import grpc.aio

from dstack_mesh.faults import Invalid, MeshError, Unreachable
from dstack_mesh.tunnel.frame import Frame
from dstack_mesh.tunnel.way import Incoming, Outgoing
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_mesh.v1.tunnel_pb2_grpc import TunnelServiceStub
from dstack_mesh.wire.ending import Ending
from dstack_mesh.wire.tunnel import frame_from_wire, frame_to_wire
from dstack_mesh.wire.writing import Writing
from dstack_scheduler.errand import (
    MOST_CHARACTERS,
    STDERR,
    STDIN,
    STDOUT,
    Errand,
    Outcome,
    Window,
)
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire import convert, fields

ENDED = "command-ended"

BEGIN_SECONDS = 40.0
"""An agent lets a command in or not within so long."""

_MOST_WORDS = 10_000
_LARGEST_SIDE = 0xFFFF
_TERMINAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_WHY = 1000

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]
_Call = grpc.aio.StreamStreamCall[pb.ExecRequest, pb.ExecResponse]


class ErrandClient:
    """Has one agent run commands beside its jobs. `name` is what errors call it."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = TunnelServiceStub(channel)
        self._name = name

    @asynccontextmanager
    async def begun(self, key: JobKey, errand: Errand) -> AsyncGenerator["Session"]:
        """A command that was let in; it is ended with all that it started when the block ends.

        Raises:
            MeshError: The agent does not let it in.
        """
        call = self._stub.Exec()
        try:
            session = Session(call, self._name)
            await session.begin(key, errand)
            yield session
        finally:
            call.cancel()


class Session:
    """One command that goes on."""

    def __init__(self, call: _Call, peer: str) -> None:
        self._call = call
        self._peer = peer
        self._ending = Ending(call, peer)
        self._over = f"{peer} ended the command."
        self._writing = Writing(call, self._ending, self._over, ENDED)
        self._stdin = Outgoing(partial(self._say, STDIN))
        self._outputs = {
            number: Incoming(partial(self._say, number)) for number in (STDOUT, STDERR)
        }

    async def begin(self, key: JobKey, errand: Errand) -> None:
        """Returns once the agent let the command in. Raises MeshError."""
        await self._writing.write(pb.ExecRequest(begin=errand_to_wire(key, errand)))
        try:
            async with asyncio.timeout(BEGIN_SECONDS):
                response = await self._read()
        except TimeoutError as error:
            raise Unreachable(f"{self._peer} does not answer.", code="agent-away") from error
        if response is None or response.WhichOneof("kind") != "begun":
            raise Invalid(f"{self._peer} does not say whether the command was let in.")

    async def run(self, read: Read | None, writes: Mapping[int, Write]) -> Outcome:
        """Carries its streams until it ended, and all that it wrote was written on.

        Args:
            read: Gives its standard input; None for none.
            writes: Take its output and its error, by the numbers of these.

        Raises:
            MeshError: The agent went away, or ended it.
            OSError: What it wrote cannot be written.
        """
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(self._stdin.run(read or _nothing))
            written = [
                tasks.create_task(self._outputs[number].run(write))
                for number, write in writes.items()
            ]
            outcome = await self._heard()
            await asyncio.gather(*written)
            sending.cancel()
        return outcome

    async def interrupt(self) -> None:
        """Sends it what Ctrl-C sends."""
        with suppress(MeshError):  # it ended meanwhile, and reading says how
            await self._writing.write(pb.ExecRequest(interrupt=pb.Interrupt()))

    async def resize(self, window: Window) -> None:
        """Tells its terminal a new size."""
        with suppress(MeshError):
            await self._writing.write(pb.ExecRequest(window=window_to_wire(window)))

    async def _heard(self) -> Outcome:
        """Hands on what comes, until the end."""
        while (response := await self._read()) is not None:
            match response.WhichOneof("kind"):
                case "frame":
                    self._take(response.frame)
                case "ended":
                    return outcome_from_wire(response.ended)
                case _:
                    continue
        raise Unreachable(self._over, code=ENDED)

    async def _read(self) -> pb.ExecResponse | None:
        """What comes next; None at the end."""
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as failed:
            why = await self._ending.why(failed)
            if isinstance(why, Unreachable):
                gone = f"{self._peer} went away, and the command with it."
                raise Unreachable(gone, why.why, "dstack agents", "agent-away") from failed
            raise why from failed
        return response if isinstance(response, pb.ExecResponse) else None

    def _take(self, wire: pb.Frame) -> None:
        frame, number = frame_from_wire(wire), wire.connection
        if frame is None:
            return
        if number == STDIN:
            self._stdin.heard(frame)
        elif number in self._outputs:
            self._outputs[number].heard(frame)

    async def _say(self, number: int, frame: Frame) -> None:
        with suppress(Unreachable):  # it ended meanwhile, and reading says how
            await self._writing.write(pb.ExecRequest(frame=frame_to_wire(number, frame)))


async def _nothing(most: int) -> bytes:
    return b""


def errand_to_wire(key: JobKey, errand: Errand) -> pb.Command:
    return pb.Command(
        key=convert.key_to_wire(key),
        words=errand.words,
        terminal=errand.terminal,
        window=window_to_wire(errand.window),
    )


def errand_from_wire(wire: pb.Command) -> tuple[JobKey, Errand]:
    """Beside which attempt, and what; attempt 0 is the newest. Raises Invalid."""
    words = tuple(
        fields.text(word, "The command") for word in fields.items(wire.words, "Words", _MOST_WORDS)
    )
    if sum(map(len, words)) > MOST_CHARACTERS or words[:1] == ("",):
        rule = f"it has a program and at most {MOST_CHARACTERS} characters"
        raise fields.refuse("The command", words, rule)
    if wire.terminal and not _TERMINAL.fullmatch(wire.terminal):
        raise fields.refuse("The terminal", wire.terminal, "it is a kind of one, as xterm")
    key = convert.key_from_wire(wire.key, newest=True)
    return key, Errand(words, wire.terminal, window_from_wire(wire.window))


def window_to_wire(window: Window) -> pb.Window:
    return pb.Window(rows=window.rows, columns=window.columns)


def window_from_wire(wire: pb.Window) -> Window:
    """Raises Invalid."""
    if max(wire.rows, wire.columns) > _LARGEST_SIDE:
        shown = f"{wire.rows} x {wire.columns}"
        raise fields.refuse("The size", shown, f"a side has at most {_LARGEST_SIDE}")
    return Window(wire.rows, wire.columns)


def outcome_to_wire(outcome: Outcome) -> pb.Outcome:
    return pb.Outcome(exit_code=outcome.exit_code, why=outcome.why[:_WHY])


def outcome_from_wire(wire: pb.Outcome) -> Outcome:
    return Outcome(wire.exit_code & 0xFF, "".join(filter(str.isprintable, wire.why[:_WHY])))
