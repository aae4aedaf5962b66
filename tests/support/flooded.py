"""An agent that is flooded, and whether it minds."""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

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
from dstack_mesh.wire.errors import from_rpc_error
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import JobKey, JobSpec
from dstack_scheduler.needs import Needs
from support.agent_process import AgentProcess, agent_process
from support.eventually import eventually_async
from support.every_method import call
from support.meshes import Mesh, member

GROWTH_BYTES = 100 << 20
SLOWEST_SECONDS = 1.0


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


def pause_after(failed: grpc.aio.AioRpcError) -> float:
    """After how long a refused call may be made again; 0 if it was refused for something else."""
    error = from_rpc_error(failed, "the agent")
    return error.retry_seconds if isinstance(error, Busy) else 0.0
