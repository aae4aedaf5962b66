"""Being told that a job's output grew or that it ended."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Generator
from pathlib import Path

from dstack_agent.logs.address import socket_address

_DATAGRAM_BYTES = 512


class Wake:
    """Listens for the pokes of shims. A poke may be lost, so waiting has a timeout.

    Use as an async context manager in the agent's loop. One socket per agent; a socket that an
    earlier life of the agent left is replaced.

    Args:
        path: Where the socket is; shims are told it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._socket: socket.socket | None = None

    @property
    def path(self) -> Path:
        return self._path

    async def __aenter__(self) -> "Wake":
        self._socket = _listen(self._path)
        asyncio.get_running_loop().add_reader(self._socket, self._receive, self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._socket is not None
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    async def wait(self, name: str, within: float) -> bool:
        """Waits until the job folder of this name was poked; false if it was not within seconds."""
        with self.following(name) as poked:
            return await _within(poked, within)

    @contextlib.contextmanager
    def following(self, name: str) -> Generator[asyncio.Event]:
        """An event that is set by every poke while the block runs: clear it, look, then wait.

        Unlike `wait` it misses no poke that comes while the caller looks.
        """
        poked = asyncio.Event()
        events = self._waiting.setdefault(name, set())
        events.add(poked)
        try:
            yield poked
        finally:
            events.discard(poked)
            if not events:
                self._waiting.pop(name, None)

    def _receive(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                name = os.fsdecode(listener.recv(_DATAGRAM_BYTES))
                for poked in self._waiting.get(name, ()):
                    poked.set()


async def _within(poked: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await poked.wait()
    except TimeoutError:
        return False
    return True


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.setblocking(False)
    address, folder = socket_address(str(path))
    try:
        listener.bind(address)
    finally:
        if folder is not None:
            os.close(folder)
    path.chmod(0o600)
    return listener
