"""Waiting until the network of this machine may be another one."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from dstack_mesh.clock import Clock

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 5.0
"""How often interfaces are read again where the kernel does not tell of changes."""

SLEPT_SECONDS = 10.0
"""A look that comes so much too late: the machine slept, and others may have forgotten us."""

SETTLE_SECONDS = 0.2
"""Changes come several at once: an interface goes up, then gets its address."""

LONGEST_MESSAGE = 1 << 16

_LINK, _IPV4_ADDRESS = 0x1, 0x10
"""Groups of the kernel's routing messages."""


class Changes:
    """Wakes whoever waits when something may have changed; what did is theirs to look at."""

    def __init__(self, clock: Clock, news: socket.socket | None) -> None:
        self._clock = clock
        self._news = news

    async def wait(self) -> bool:
        """Returns after a change, or after some seconds; whether the machine slept meanwhile."""
        began = self._clock.elapsed()
        try:
            async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                await self._told()
        except TimeoutError:
            pass
        return self._clock.elapsed() - began > LOOK_AGAIN_SECONDS + SLEPT_SECONDS

    async def _told(self) -> None:
        if self._news is None:
            await asyncio.Event().wait()
            return
        # A container that starts sends dozens of messages. More than the socket holds are lost,
        # which is told as an error: that, too, says that something changed.
        with suppress(OSError):
            await asyncio.get_running_loop().sock_recv(self._news, LONGEST_MESSAGE)
        await asyncio.sleep(SETTLE_SECONDS)
        _drain(self._news)


def _drain(news: socket.socket) -> None:
    while True:
        try:
            news.recv(LONGEST_MESSAGE)
        except BlockingIOError:
            return
        except OSError:  # messages were lost
            continue


@asynccontextmanager
async def watching(clock: Clock) -> AsyncGenerator[Changes]:
    """Listens to the kernel within the block, where it tells."""
    news = _routing_messages()
    try:
        yield Changes(clock, news)
    finally:
        if news is not None:
            news.close()


def _routing_messages() -> socket.socket | None:
    try:
        news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        news.bind((0, _LINK | _IPV4_ADDRESS))
    except (AttributeError, OSError) as failed:
        log.debug("changes of the network are looked for every few seconds: %s", failed)
        return None
    return news
