"""Runs a command beside a process job: its shim starts it, as it started the job."""

import asyncio
import os
import socket
import termios
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from dstack_agent.executor import asking
from dstack_agent.executor.asking import Asked
from dstack_agent.logs.address import socket_address
from dstack_mesh.faults import Invalid, Refused
from dstack_scheduler.errand import Errand, Outcome, Window

KILLED = 128 + 9

_START_SECONDS = 30.0
_OPEN_SECONDS = 1.0
"""A job that has just begun has its hatch within so long."""

_LOOK_SECONDS = 0.02


class ProcessVisit:
    """A command beside a process job; implements `port.Visit`.

    Args:
        hatch: The way to its host.
        streams: What it reads from us and what we read from it.
    """

    def __init__(self, hatch: socket.socket, streams: tuple[int, ...], terminal: bool) -> None:
        self._hatch = hatch
        self._open = set(streams)
        self._terminal = terminal
        self.stdin, *outputs = streams
        self.outputs = tuple(outputs)

    def end_input(self) -> None:
        if not self._terminal:
            self._close(self.stdin)

    async def interrupt(self) -> None:
        with suppress(OSError):  # it ended meanwhile
            await asyncio.get_running_loop().sock_sendall(self._hatch, asking.INTERRUPT)

    async def resize(self, window: Window) -> None:
        if self._terminal:
            termios.tcsetwinsize(self.stdin, (window.rows, window.columns))

    def close(self) -> None:
        """Lets go of it: its host ends what goes on still."""
        for descriptor in tuple(self._open):
            self._close(descriptor)
        self._hatch.close()

    def _close(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        os.close(descriptor)

    async def outcome(self) -> Outcome:
        packet = await self._heard()
        return _outcome(await self._heard() if packet == asking.RUNS else packet)

    async def _heard(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._hatch, asking.MOST_BYTES)
        except ConnectionError:
            return b""


@asynccontextmanager
async def visited(
    folder: Path, errand: Errand, words: Sequence[str]
) -> AsyncGenerator[ProcessVisit]:
    """A command beside the job of a folder, ended with all that it started when the block ends.

    Args:
        words: Program and arguments.

    Raises:
        Refused: Nobody gets in beside the job.
        Invalid: It cannot be a command.
    """
    hatch = await asyncio.to_thread(_dialled, folder)
    kept, given = _terminal(errand.window) if errand.terminal else _pipes()
    visit = ProcessVisit(hatch, kept, bool(errand.terminal))
    try:
        try:
            packet = await asyncio.to_thread(_packet, folder, Asked(list(words), errand.terminal))
            socket.send_fds(hatch, [packet], given)
        except OSError as error:
            raise _shut(error) from error
        finally:  # else nobody would see the end of what the command writes
            for descriptor in set(given):
                os.close(descriptor)
        for descriptor in kept:
            os.set_blocking(descriptor, False)
        yield visit
    finally:
        visit.close()


def _packet(folder: Path, asked: Asked) -> bytes:
    """What the shim is sent. Raises OSError, and Invalid for what is no command."""
    try:
        return asked.encode((folder / asking.KEY).read_bytes())
    except ValueError as error:
        raise Invalid("The command cannot be started.", f"There is {error}.") from error


def _dialled(folder: Path) -> socket.socket:
    """A way to the job's shim. Raises Refused."""
    until = time.monotonic() + _OPEN_SECONDS
    while True:
        try:
            return _connected(folder)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() >= until:
                raise _shut(error) from error
            time.sleep(_LOOK_SECONDS)
        except OSError as error:
            raise _shut(error) from error


def _connected(folder: Path) -> socket.socket:
    """Raises OSError."""
    address, held = socket_address(str(folder / asking.HATCH))
    hatch = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        hatch.settimeout(_START_SECONDS)
        hatch.connect(address)
        hatch.setblocking(False)
    except OSError:
        hatch.close()
        raise
    finally:
        if held is not None:
            os.close(held)
    return hatch


def _shut(error: OSError) -> Refused:
    return Refused(
        "The job lets no command in.",
        f"It has just ended, or its shim is of an earlier version: {error.strerror}.",
        "dstack ps",
        "no-way-in",
    )


def _outcome(packet: bytes) -> Outcome:
    try:
        return Outcome(*asking.end_in(packet))
    except ValueError:  # its host was killed, as it is when the job ends
        return Outcome(KILLED, "The command was ended, because the job is over.")


def _pipes() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Our ends and theirs: standard input, output and error."""
    (read_in, in_), (out, write_out), (err, write_err) = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
    return (in_, out, err), (read_in, write_out, write_err)


def _terminal(window: Window) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Our side twice, to be written to and to be read, and theirs for all three streams."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (window.rows, window.columns))
    return (ours, os.dup(ours)), (theirs, theirs, theirs)
