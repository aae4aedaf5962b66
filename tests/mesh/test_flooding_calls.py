"""Calls, sockets and messages without end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.guard import GuardInterceptor
from dstack_mesh.wire.rates import RATES, kind_of
from dstack_mesh.wire.server import add_standard_services, listen_tcp
from dstack_mesh.wire.standings import MOST_OPEN
from support.eventually import eventually_async
from support.every_method import call
from support.flooded import Flooded, pause_after, untouched
from support.flooder import flood
from support.rounds import rounds

_OVER = {psutil.CONN_TIME_WAIT, psutil.CONN_LISTEN}

IDLE, CHURN = 1000, 200
STOP = "/dstack_mesh.v1.RunService/Stop"


async def test_a_peer_has_so_many_calls_open_and_no_more(flooded: Flooded, tmp_path: Path) -> None:
    async def first(channel: Any) -> str:
        begun = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        stack.callback(begun.cancel)
        try:
            await begun.read()
        except grpc.aio.AioRpcError as refused:
            if pause := pause_after(refused):
                await asyncio.sleep(pause)
                return await first(channel)
            return refused.code().name
        return "answered"

    other = replace(flooded, laptop=flooded.mesh.admit(tmp_path / "other", role=Role.READER))
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(flooded.channel()) for _ in range(3)]
        opened = [first(channel) for channel in channels for _ in range(100)]
        ends = Counter(await asyncio.gather(*opened))
        assert ends == {"answered": MOST_OPEN, "RESOURCE_EXHAUSTED": 300 - MOST_OPEN}
        assert await first(await stack.enter_async_context(other.channel())) == "answered"
    async with flooded.channel() as channel:

        async def again() -> bool:
            return (await call(channel, "/dstack_mesh.v1.RunService/List")).outcome == "passed"

        await eventually_async(again, within=10)


@pytest.mark.timed
async def test_a_peer_that_calls_too_often_is_refused_and_another_is_served(
    flooded: Flooded,
) -> None:
    seconds = rounds(3)
    async with untouched(flooded, "a flood of calls"), flooded.channel() as channel:
        flooding = asyncio.ensure_future(flood(flooded.laptop, flooded.port, STOP, seconds))
        while not flooding.done():  # who calls too often is still known to be well
            assert (await call(channel, "/grpc.health.v1.Health/Check")).outcome == "passed"
            await asyncio.sleep(0.05)
    ended = await flooding
    print(f"in {seconds} s: {dict(ended)}")
    check_paced(ended, seconds)
    # What it asks for is empty.
    assert set(ended) == {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}


def check_paced(ended: Counter[str], seconds: float) -> None:
    """No more calls were served than the bucket lets a peer make."""
    rate = RATES[kind_of(STOP)]
    served = ended.total() - ended["RESOURCE_EXHAUSTED"]
    assert served <= rate.burst + rate.per_second * (seconds + 1)


async def test_a_server_that_counts_no_calls_would_be_found(flooded: Flooded) -> None:
    server = grpc.aio.server(interceptors=[GuardInterceptor()])
    add_standard_services(server)
    port = listen_tcp(server, flooded.mesh.membership, "127.0.0.1", 0)
    await server.start()
    try:
        ended = await flood(flooded.laptop, port, "/grpc.health.v1.Health/Check", 1.5)
    finally:
        await server.stop(None)
    with pytest.raises(AssertionError):
        check_paced(ended, 1.5)


def _silent(port: int) -> socket.socket:
    silent = socket.socket()
    silent.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        silent.connect(("127.0.0.1", port))
    return silent


@pytest.mark.timed
async def test_idle_sockets_and_churn_slow_nobody_and_leave_nothing_behind(
    flooded: Flooded,
) -> None:
    await eventually_async(lambda: _few(flooded, 20), within=15)
    async with untouched(flooded, "idle sockets"):
        idle = [_silent(flooded.port) for _ in range(IDLE)]
        ends, churned = time.monotonic() + rounds(4), 0
        while time.monotonic() < ends:
            passing = _silent(flooded.port)
            await asyncio.sleep(1 / CHURN)
            with contextlib.suppress(OSError):
                passing.send(b"\x16\x03\x01" + os.urandom(64))
            passing.close()
            churned += 1
        print(f"{IDLE} idle sockets and {churned} that came and went")
        for one in idle:
            one.close()
    await eventually_async(lambda: _few(flooded, 20), within=15)


async def _few(flooded: Flooded, most: int) -> bool:
    """Whether the agent has few connections open, as the kernel tells everybody."""
    now = [
        one
        for one in psutil.net_connections("tcp4")
        if one.laddr.port == flooded.port and one.status not in _OVER  # pyright: ignore
    ]
    return len(now) <= most
