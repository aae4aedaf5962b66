"""Readers that do not read, sockets that say nothing, and messages that are no messages, at a real
agent with a job that runs.

`DSTACK_CHAOS_ROUNDS=60 pytest tests/mesh/test_floods.py` keeps each up for a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Busy
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest, RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_mesh.trust.membership import Role
from dstack_mesh.v1 import records_pb2, run_pb2, transfer_pb2, tunnel_pb2
from dstack_mesh.wire.errors import from_rpc_error
from dstack_mesh.wire.guard import GuardInterceptor
from dstack_mesh.wire.rates import RATES, kind_of
from dstack_mesh.wire.server import add_standard_services, listen_tcp
from dstack_mesh.wire.standings import MOST_OPEN
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import JobKey, JobSpec
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire import convert
from support.agent_process import AgentProcess, agent_process
from support.eventually import eventually_async
from support.every_method import METHODS, call
from support.flooder import flood
from support.meshes import Mesh, member
from support.mutations import mutated
from support.rounds import rounds, seeded
from support.valid_messages import valid_messages

_OVER = {psutil.CONN_TIME_WAIT, psutil.CONN_LISTEN}

GROWTH_BYTES = 100 << 20
SLOWEST_SECONDS = 1.0
IDLE, CHURN = 1000, 200
CALLS = MOST_OPEN
"""Streams that nobody reads: as many as a peer may have open."""
STOP = "/dstack_mesh.v1.RunService/Stop"


@dataclass(frozen=True, slots=True)
class Flooded:
    """An agent, a member that calls it, and a job that writes a line each tenth of a second."""

    agent: AgentProcess
    port: int
    mesh: Mesh
    laptop: Home
    key: JobKey
    code: Digest

    @property
    def process(self) -> psutil.Process:
        assert self.agent.process is not None
        return psutil.Process(self.agent.process.pid)

    def channel(self) -> grpc.aio.Channel:
        """A connection of its own, whose reader has a small window."""
        known = member(self.laptop)
        credentials = grpc.ssl_channel_credentials(
            known.root_path.read_bytes(),
            known.key_path.read_bytes(),
            known.certificate_path.read_bytes(),
        )
        options: list[tuple[str, str | int]] = [
            ("grpc.ssl_target_name_override", "mesh"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.http2.lookahead_bytes", 1024),
        ]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[AgentProcess, int, Mesh]]:
    mesh = Mesh.founded(tmp_path_factory.mktemp("floods") / "root")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with agent_process(mesh.root.root, "--listen", f"127.0.0.1:{port}", "--no-mdns") as agent:
        yield agent, port, mesh


@pytest.fixture
async def flooded(
    process: tuple[AgentProcess, int, Mesh], tmp_path: Path
) -> AsyncGenerator[Flooded]:
    agent, port, mesh = process
    code = tmp_path / "code"
    code.mkdir()
    (code / "big").write_bytes(os.urandom(24 << 20))
    store = ChunkStore(agent.home.chunks)
    digest = save_tree(store, code).digest
    store.close()
    number = time.time_ns() % 10**12
    key = JobKey(RunId(f"{number:026d}"), 0)
    ticking = "head -c 8000000 /dev/zero | tr '\\0' x; while true; do echo tick; sleep 0.1; done"
    spec = JobSpec(
        key=key,
        run_name=RunName(f"calm-ibex-{number}"),
        workflow="tick",
        provider="bash",
        commands=(ticking,),
        needs=Needs(),
        code_digest=digest,
        submitted_at=datetime.now(UTC),
    )
    async with agent.agent() as port_of:
        question = Question(key, spec.run_name, Needs(), ExecutorKind.PROCESS)
        hold = await port_of.reserve(question, 1)
        await port_of.commit(hold.hold_id, 1, spec, {})
        laptop = mesh.admit(tmp_path / "laptop", role=Role.SUBMITTER)
        made = Flooded(agent, port, mesh, laptop, key, digest)
        await eventually_async(lambda: ticks(made), within=30)
        try:
            yield made
        finally:
            await port_of.stop(key.run_id, None, True, "enough")


async def ticks(flooded: Flooded) -> int:
    """Bytes of the job's journal: it grows while the job runs."""
    folder = flooded.agent.home.jobs / f"{flooded.key.run_id}.0.1"
    return sum(path.stat().st_size for path in folder.glob("journal*")) if folder.exists() else 0


@asynccontextmanager
async def untouched(flooded: Flooded, name: str) -> AsyncGenerator[None]:
    """Within the block calls of another member are quick, memory stays, and the job goes on."""
    other = replace(flooded, laptop=flooded.mesh.admit(flooded.laptop.root.with_name("other")))
    before = flooded.process.memory_info().rss
    took: list[float] = []
    most, began = before, await ticks(flooded)
    ended = asyncio.Event()

    async def legitimate() -> None:
        nonlocal most
        async with other.channel() as channel:
            while not ended.is_set():
                at = time.monotonic()
                answer = await call(channel, "/dstack_mesh.v1.RunService/List")
                assert answer.outcome == "passed", answer
                took.append(time.monotonic() - at)
                most = max(most, flooded.process.memory_info().rss)
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(legitimate())
        try:
            yield
        finally:
            ended.set()
    p99 = statistics.quantiles(took, n=100)[98]
    print(
        f"{name}: {len(took)} legitimate calls, p99 {p99 * 1000:.0f} ms, memory grew by "
        f"{(most - before) / (1 << 20):.1f} MiB"
    )
    assert p99 <= SLOWEST_SECONDS
    assert most - before < GROWTH_BYTES
    await eventually_async(lambda: _more(flooded, began), within=5)


async def _more(flooded: Flooded, before: int) -> bool:
    return await ticks(flooded) > before


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


async def test_a_peer_has_so_many_calls_open_and_no_more(flooded: Flooded, tmp_path: Path) -> None:
    async def first(channel: Any) -> str:
        begun = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        stack.callback(begun.cancel)
        try:
            await begun.read()
        except grpc.aio.AioRpcError as refused:
            if pause := _pause(refused):
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
            pause = _pause(failed)
        if not pause:
            return begun
        await asyncio.sleep(pause)


def _pause(failed: grpc.aio.AioRpcError) -> float:
    """After how long a refused call may be made again; 0 if it was refused for something else."""
    error = from_rpc_error(failed, "the agent")
    return error.retry_seconds if isinstance(error, Busy) else 0.0
