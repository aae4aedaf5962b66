"""Readers that do not read, sockets that say nothing, and messages that are no messages, at a real
agent with a job that runs.

`DSTACK_CHAOS_ROUNDS=60 pytest tests/mesh/test_floods.py` keeps each up for a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.v1 import records_pb2, run_pb2, transfer_pb2, tunnel_pb2
from dstack_mesh.wire.rates import RATES, kind_of
from dstack_mesh.wire.standings import MOST_OPEN
from dstack_scheduler.wire import convert
from support.every_method import METHODS
from support.flooded import SLOWEST_SECONDS, Flooded, pause_after, untouched
from support.mutations import mutated
from support.rounds import rounds, seeded
from support.valid_messages import valid_messages

CALLS = MOST_OPEN
"""Streams that nobody reads: as many as a peer may have open."""


def attach(flooded: Flooded) -> list[Any]:
    return [run_pb2.AttachRequest(follow=run_pb2.Follow(key=convert.key_to_wire(flooded.key)))]


def attach_and_lie(flooded: Flooded) -> list[Any]:
    """Says that it reads, as soon as it may know of something to read."""
    key = convert.key_to_wire(flooded.key)
    return [*attach(flooded), run_pb2.AttachRequest(ack=run_pb2.Ack(key=key))]


def attach_often(flooded: Flooded) -> list[Any]:
    return attach(flooded) * 2


def attach_and_want(flooded: Flooded) -> list[Any]:
    want = transfer_pb2.Want(digests=chunks_of(flooded)[: 32 * 100])
    return [*attach(flooded), *[run_pb2.AttachRequest(want=want)] * 10]


def chunks_of(flooded: Flooded) -> bytes:
    store = ChunkStore(flooded.agent.home.chunks)
    digests = store.get_manifest(flooded.code).chunk_digests()
    store.close()
    return b"".join(digests)


def fetch(flooded: Flooded) -> list[Any]:
    want = transfer_pb2.Want(digests=chunks_of(flooded))
    return [transfer_pb2.FetchRequest(want=want, credit_bytes=1 << 62)]


def manifest(flooded: Flooded) -> list[Any]:
    return [transfer_pb2.ManifestRequest(digest=flooded.code)]


def exchange(flooded: Flooded) -> list[Any]:
    return [records_pb2.RecordServiceExchangeRequest()]


def carry(flooded: Flooded) -> list[Any]:
    """Wants to get at what somebody else's job listens on."""
    return [tunnel_pb2.CarryRequest(begin=convert.key_to_wire(flooded.key))]


def run_beside(flooded: Flooded) -> list[Any]:
    """Wants to get in beside somebody else's job."""
    command = tunnel_pb2.Command(key=convert.key_to_wire(flooded.key), words=["yes"])
    return [tunnel_pb2.ExecRequest(begin=command)]


def nothing(flooded: Flooded) -> list[Any]:
    return [b""]


ATTACH = "/dstack_mesh.v1.RunService/Attach"
ASKED: dict[str, Callable[[Flooded], list[Any]]] = {
    ATTACH: attach,
    "/dstack_mesh.v1.TransferService/Fetch": fetch,
    "/dstack_mesh.v1.TransferService/Push": nothing,
    "/dstack_mesh.v1.TransferService/Manifest": manifest,
    "/dstack_mesh.v1.RecordService/Exchange": exchange,
    "/dstack_mesh.v1.TunnelService/Carry": carry,
    "/dstack_mesh.v1.TunnelService/Exec": run_beside,
    "/grpc.health.v1.Health/Watch": nothing,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": nothing,
}


def test_every_stream_has_a_reader_that_does_not_read() -> None:
    streams = {name for name, method in METHODS.items() if method.server_streaming}
    assert streams - {"/dstack_mesh.v1.InvitationService/Watch"} == ASKED.keys()


READERS = [
    *ASKED.items(),
    (ATTACH, attach_and_lie),
    (ATTACH, attach_often),
    (ATTACH, attach_and_want),
]


@pytest.mark.timed
@pytest.mark.parametrize(("name", "ask"), READERS, ids=[ask.__name__ for _, ask in READERS])
async def test_readers_that_do_not_read_cost_bounded_memory_and_slow_nobody(
    name: str, ask: Callable[[Flooded], list[Any]], flooded: Flooded
) -> None:
    method, asked, rate = METHODS[name], ask(flooded), RATES[kind_of(name)]
    encoded = [one if isinstance(one, bytes) else one.SerializeToString() for one in asked]
    begun: list[Any] = []
    async with untouched(flooded, f"{name} ({ask.__name__})"), contextlib.AsyncExitStack() as stack:
        channels: list[Any] = [await stack.enter_async_context(flooded.channel()) for _ in range(2)]
        for number in range(CALLS):
            if number >= rate.burst // 2:
                await asyncio.sleep(2 / rate.per_second)
            channel = channels[number % 2]
            if method.client_streaming:
                begun.append(channel.stream_stream(name)(timeout=600))
            else:
                begun.append(channel.unary_stream(name)(encoded[0], timeout=600))
            stack.callback(begun[-1].cancel)
            if method.client_streaming:
                for one in encoded:
                    await begun[-1].write(one)
        await asyncio.sleep(rounds(3))
        refused = [await one.details() for one in begun if one.done()]
        assert not any("too" in details for details in refused), refused


async def test_readers_that_go_in_the_middle_of_a_log_are_no_bug_of_ours(flooded: Flooded) -> None:
    log = flooded.agent.home.root / "stderr"
    said, (asked,) = log.stat().st_size, attach(flooded)
    for number in range(24):
        async with flooded.channel() as opened:
            channel: Any = opened
            calls = [channel.stream_stream(ATTACH)(timeout=60) for _ in range(20)]
            for begun in calls:
                await begun.write(asked.SerializeToString())
            await asyncio.gather(*(begun.read() for begun in calls))
            await asyncio.sleep(number / 300)
    await asyncio.sleep(0.5)
    assert b"failed [" not in log.read_bytes()[said:]


@pytest.mark.timed
async def test_a_message_that_is_too_large_and_one_that_never_ends_are_refused(
    flooded: Flooded,
) -> None:
    async with untouched(flooded, "large messages"), flooded.channel() as opened:
        channel: Any = opened
        for name in ("RunService/List", "RosterService/Exchange", "MembershipService/Hello"):
            ask = channel.unary_unary(f"/dstack_mesh.v1.{name}")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(b"\x0a\xff\xff\xff\x07" + b"x" * (16 << 20), timeout=20)
            assert refused.value.code() in {
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.INTERNAL,
            }


@pytest.mark.timed
async def test_messages_changed_by_chance_are_answered_over_a_real_connection(
    flooded: Flooded,
) -> None:
    chance, seeds = seeded("real"), valid_messages(flooded.laptop)
    log = flooded.agent.home.root / "stderr"
    said, sent, count = log.stat().st_size, 0, max(600, min(20_000, rounds(3) * 300))
    names = [name for name, method in METHODS.items() if not method.client_streaming]
    names = [name for name in names if name in seeds and not name.endswith("Watch")]
    async with untouched(flooded, "changed messages"), flooded.channel() as opened:
        channel: Any = opened
        for _ in range(count):
            name = chance.choice(names)
            encoded = mutated(chance, seeds[name])
            stream = METHODS[name].server_streaming
            ask = (channel.unary_stream if stream else channel.unary_unary)(name)
            ended = await _in_time(partial(ask, encoded, timeout=20), stream)
            assert await ended.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
            sent += 1
    print(f"{sent} messages over TLS")
    assert b"failed [" not in log.read_bytes()[said:]


def test_an_agent_that_is_slow_would_be_noticed() -> None:
    took = [0.01] * 97 + [2.0] * 3
    assert statistics.quantiles(took, n=100)[98] > SLOWEST_SECONDS


async def _in_time(begin: Callable[[], Any], stream: bool) -> Any:
    """A call at its end; one that came too early is made again."""
    while True:
        begun, pause = begin(), 0.0
        try:
            _ = [one async for one in begun] if stream else await begun
        except grpc.aio.AioRpcError as failed:
            pause = pause_after(failed)
        if not pause:
            return begun
        await asyncio.sleep(pause)
