"""Reads and writes descriptors of this process, whatever they are, without blocking anybody."""

import asyncio
import errno
import os
import select
from collections.abc import Callable

_WRITE_BYTES = 4096
"""A pipe that can be written takes so much at once, though it blocks for more."""


async def read_some(descriptor: int, most: int, over: asyncio.Event | None = None) -> bytes:
    """What there is to read, at most so many bytes; empty at the end.

    Args:
        over: Once it is set, what can be read at once is all there will be.

    Raises:
        OSError: It cannot be read.
    """
    while True:
        await _ready(descriptor, over)
        if over is not None and over.is_set() and not _can_be_read(descriptor):
            return b""
        try:
            return os.read(descriptor, most)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that nobody has open any more
                return b""
            raise


async def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it. Raises OSError."""
    left = memoryview(data)
    while left:
        await _writable(descriptor)
        try:
            left = left[os.write(descriptor, left[:_WRITE_BYTES]) :]
        except BlockingIOError:
            continue


async def _ready(descriptor: int, over: asyncio.Event | None) -> None:
    """Returns when something can be read, or once it is over."""
    if over is None:
        await readable(descriptor)
        return
    if over.is_set():
        return
    reading = asyncio.ensure_future(readable(descriptor))
    ending = asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        reading.cancel()
        ending.cancel()


def _can_be_read(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def readable(descriptor: int) -> None:
    """Returns when something can be read, or its end was reached."""
    loop = asyncio.get_running_loop()
    await _until(descriptor, loop.add_reader, loop.remove_reader)


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    await _until(descriptor, loop.add_writer, loop.remove_writer)


async def _until(
    descriptor: int,
    watch: Callable[[int, Callable[[], None]], object],
    leave: Callable[[int], object],
) -> None:
    ready = asyncio.Event()
    try:
        watch(descriptor, ready.set)
    except PermissionError:  # a file never has anybody wait
        return
    try:
        await ready.wait()
    finally:
        leave(descriptor)
