"""Runs a command beside a job in its container, as `docker exec` does.

The engine ends no such command when whoever asked for it goes away, so each has a mark in its
environment, by which all that it started is found on this machine and ended.
"""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from dstack_agent.executor import tree
from dstack_agent.executor.container import beside
from dstack_agent.executor.container_task import ContainerTask
from dstack_agent.executor.engine import Engine, EngineError, OutputStream
from dstack_mesh.faults import Refused
from dstack_mesh.tunnel.descriptors import readable, write_all
from dstack_scheduler.errand import Errand, Outcome, Window

MARK = "DSTACK_COMMAND"
"""In the environment of all that a command starts."""

_NOT_STARTED, _KILLED = 126, 128 + 9
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_CLEAN_SECONDS = 5.0


class ContainerVisit:
    """A command in a container; implements `port.Visit`.

    Args:
        number: Its own with the engine.
        connection: Carries its streams.
        mark: Of all that it starts.
    """

    def __init__(
        self,
        engine: Engine,
        number: str,
        connection: socket.socket,
        mark: bytes,
        stream: OutputStream,
    ) -> None:
        self._engine = engine
        self._number = number
        self._connection = connection
        self._mark = mark
        self._terminal = not stream.framed
        self._stream = stream
        pipes = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(1 if self._terminal else 2)]
        self._writers = {stream: writer for stream, (_, writer) in enumerate(pipes)}
        self._pumping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stdin = connection.fileno()
        self.outputs = tuple(reader for reader, _ in pipes)

    def end_input(self) -> None:
        if not self._terminal:
            with suppress(OSError):  # it ended meanwhile
                self._connection.shutdown(socket.SHUT_WR)

    async def interrupt(self) -> None:
        await asyncio.to_thread(self._interrupt)

    async def resize(self, window: Window) -> None:
        if self._terminal:
            await asyncio.to_thread(resize, self._engine, self._number, window)

    def begin(self) -> None:
        """Takes its streams apart from now on."""
        self._pumping = asyncio.ensure_future(self._pump())

    async def outcome(self) -> Outcome:
        while not (await asyncio.wait((self._pumping,), timeout=_LOOK_SECONDS))[0]:
            if not (await asyncio.to_thread(self._state)).get("Running"):
                # What it left running holds the streams open, and ends with it.
                await asyncio.to_thread(self._end_all)
                await asyncio.wait((self._pumping,), timeout=_LOOK_SECONDS)
                break
        await asyncio.to_thread(self._end_all)
        return _outcome(await asyncio.to_thread(self._state))

    async def let_go(self) -> None:
        """Ends what goes on still."""
        self._pumping.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await self._pumping
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._end_all()
        self._stream.close()
        for descriptor in (*self.outputs, *self._writers.values()):
            os.close(descriptor)

    async def _pump(self) -> None:
        """Takes its streams apart until they end."""
        while (pieces := self._stream.read()) is not None:
            for stream, data in pieces:
                await write_all(self._writers[stream], data)
            if not pieces:
                await readable(self._connection.fileno())
        while self._writers:
            os.close(self._writers.popitem()[1])

    def _interrupt(self) -> None:
        held = tree.holders_of(self._mark)
        tree.send(held.union(tree.descendants(*held)), signal.SIGINT)

    def _end_all(self) -> None:
        tree.end_holders(self._mark, _CLEAN_SECONDS)

    def _state(self) -> dict[str, Any]:
        """How it is, as the engine says it; nothing once its container is gone."""
        try:
            return json.loads(self._engine.call("GET", f"/exec/{self._number}/json"))
        except (EngineError, OSError):
            return {}


@asynccontextmanager
async def visited(task: Path, errand: Errand) -> AsyncGenerator[ContainerVisit]:
    """A command in a container, ended with all that it started when the block ends.

    Args:
        task: Where the shim's task is kept, which names engine and container.

    Raises:
        Refused: The engine does not take it.
    """
    visit = ContainerVisit(*await asyncio.to_thread(_begun, task, errand))
    visit.begin()
    try:
        yield visit
    finally:
        await visit.let_go()


def resize(engine: Engine, number: str, window: Window) -> None:
    """Tells the terminal of a command its size; one that ended has none."""
    with suppress(EngineError, OSError):
        engine.call("POST", f"/exec/{number}/resize?h={window.rows}&w={window.columns}")


def _begun(task: Path, errand: Errand) -> tuple[Engine, str, socket.socket, bytes, OutputStream]:
    terminal, mark = bool(errand.terminal), f"{MARK}={os.urandom(16).hex()}"
    try:
        known = ContainerTask.decode(task.read_bytes())
        engine, container = Engine(known.engine), f"/containers/{known.container}"
        found = json.loads(engine.call("GET", f"{container}/json"))["Config"]
        wanted: dict[str, object] = {
            **{f"Attach{name}": True for name in ("Stdin", "Stdout", "Stderr")},
            "Tty": terminal,
            "Cmd": beside(errand.words, found["Entrypoint"] or ()),
            "Env": [mark, *([f"TERM={errand.terminal}"] if terminal else [])],
        }
        number = str(json.loads(engine.call("POST", f"{container}/exec", wanted))["Id"])
        told: dict[str, object] = {"Detach": False, "Tty": terminal}
        connection = engine.open("POST", f"/exec/{number}/start", _START_SECONDS, told)
        stream = OutputStream(connection, framed=not terminal)
    except (EngineError, OSError) as error:
        why = f"The Docker engine says: {error}."
        raise Refused("The job lets no command in.", why, "dstack ps", "no-way-in") from error
    if terminal:
        resize(engine, number, errand.window)
    return engine, number, connection, mark.encode(), stream


def _outcome(state: dict[str, Any]) -> Outcome:
    code = state.get("ExitCode")
    if code is None:
        return Outcome(_KILLED, "The command was ended, because the job is over.")
    return Outcome(int(code) & 0xFF)
