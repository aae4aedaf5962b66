"""Two ferries over a stream of frames, real sockets at both ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from dstack_mesh.faults import Invalid, Refused, Unreachable
from dstack_mesh.tunnel.ferry import Ferry
from dstack_mesh.tunnel.flow import WINDOW_BYTES
from dstack_mesh.tunnel.frame import Broken, Data, End, Frame, Made

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@dataclass
class Crossing:
    """A port on one side that leads to a server on the other."""

    port: int
    said: list[Frame] = field(default_factory=list[Frame])
    near: Ferry | None = None


@asynccontextmanager
async def crossing(serve: Serve) -> AsyncGenerator[Crossing]:
    """Leads connections to a server, each frame handed over as it is said."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)  # pyright: ignore
    target = server.sockets[0].getsockname()[1]
    made = Crossing(0)
    ferries: list[Ferry] = []

    async def to_far(number: int, frame: Frame) -> None:
        made.said.append(frame)
        ferries[1].heard(number, frame)
        await asyncio.sleep(0)

    async def to_near(number: int, frame: Frame) -> None:
        made.said.append(frame)
        ferries[0].heard(number, frame)
        await asyncio.sleep(0)

    ferries += [Ferry(to_far), Ferry(to_near)]
    made.near = ferries[0]
    async with asyncio.TaskGroup() as tasks:

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = writer.get_extra_info("peername")[1]
            ferries[0].expect(number)
            ferries[1].expect(number)
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
            far = tasks.create_task(ferries[1].carry(number, far_reader, far_writer))
            await ferries[0].carry(number, reader, writer)
            await far

        leading = await asyncio.start_server(accepted, "127.0.0.1", 0)
        made.port = leading.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            leading.close()
            server.close()
            ferries[0].break_off()
            ferries[1].break_off()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    digest = hashlib.sha256(await reader.read()).digest()
    writer.write(digest)
    writer.close()


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(bytes(65536))
        await writer.drain()


async def test_bytes_go_both_ways_and_an_end_ends_one_of_them() -> None:
    sent = os.urandom(3_000_000)
    async with crossing(counts) as way, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == hashlib.sha256(sent).digest()
        writer.close()
        assert sum(isinstance(frame, End) for frame in way.said) == 2


async def test_many_connections_do_not_mix() -> None:
    async def one(port: int, number: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        text = f"connection {number} ".encode() * 2000
        writer.write(text)
        writer.write_eof()
        got = await reader.read()
        writer.close()
        return got == text

    async with crossing(echo) as way, asyncio.timeout(30):
        assert all(await asyncio.gather(*(one(way.port, number) for number in range(60))))


async def test_a_reader_that_does_not_read_is_sent_what_was_granted() -> None:
    async with crossing(floods) as way, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port, limit=1024)
        await reader.readexactly(10)
        before = -1
        while (sent := _bytes(way.said)) != before:
            before = sent
            await asyncio.sleep(0.3)
        # The kernel's buffers on the way take some of it, and then nothing more comes.
        assert WINDOW_BYTES <= sent < 16 << 20
        writer.close()


async def test_a_socket_that_breaks_breaks_the_other_end_too() -> None:
    async with crossing(echo) as way, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.write(b"x")
        await reader.readexactly(1)
        assert way.near is not None
        way.near.break_off()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_a_connection_counts_once_it_was_made() -> None:
    ferry = Ferry(lambda number, frame: asyncio.sleep(0))
    for number in (1, 2, 3):
        ferry.expect(number)
    ferry.heard(1, Made())
    await ferry.made(1)
    ferry.heard(2, Broken("nobody listens"))
    with pytest.raises(Refused, match="not reached") as refused:
        await ferry.made(2)
    assert refused.value.why == "nobody listens"
    ferry.break_off()
    with pytest.raises(Unreachable):
        await ferry.made(3)


def test_frames_of_no_connection_are_nothing_and_too_many_bytes_are_refused() -> None:
    ferry = Ferry(lambda number, frame: asyncio.sleep(0))
    ferry.heard(7, Data(b"late"))
    ferry.expect(8)
    for _ in range(WINDOW_BYTES // 65536):
        ferry.heard(8, Data(bytes(65536)))
    with pytest.raises(Invalid):
        ferry.heard(8, Data(b"x"))


def test_small_frames_that_nobody_reads_take_no_more_memory_than_large_ones() -> None:
    ferry = Ferry(lambda number, frame: asyncio.sleep(0))
    ferry.expect(1)
    tracemalloc.start()
    try:
        for number in range(WINDOW_BYTES // 2):
            ferry.heard(1, Data(number.to_bytes(3)[1:]))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert WINDOW_BYTES <= taken < 2 * WINDOW_BYTES


async def test_what_a_socket_that_nobody_reads_was_to_get_goes_with_its_connection() -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    over = asyncio.Event()
    async with await asyncio.start_server(nothing, "127.0.0.1", 0, limit=1024) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        credited = asyncio.Event()

        async def send(number: int, frame: Frame) -> None:
            credited.set()

        ferry = Ferry(send)
        ferry.expect(1)
        carrying = asyncio.create_task(ferry.carry(1, reader, writer))
        while not writer.transport.get_write_buffer_size():
            credited.clear()
            for _ in range(WINDOW_BYTES // 65536 // 2):
                ferry.heard(1, Data(bytes(65536)))
            await asyncio.wait([asyncio.create_task(credited.wait())], timeout=0.2)
        carrying.cancel()
        await asyncio.wait([carrying])
        assert not ferry.knows(1)
        assert writer.transport.get_write_buffer_size() == 0
        over.set()


def _bytes(said: list[Frame]) -> int:
    return sum(len(frame.data) for frame in said if isinstance(frame, Data))
