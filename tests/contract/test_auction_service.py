"""The auction over gRPC says the same as the desk behind it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dstack_agent.bids import BidDesk
from dstack_agent.ledger import HOLD_SECONDS, Ledger
from dstack_agent.records import Given
from dstack_agent.servicers.auction import AuctionServicer
from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.manifest import FolderEntry, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Busy, Conflict, Invalid, Missing, Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest, HoldId, MeshId, PeerId
from dstack_mesh.machine import ExecutorKind
from dstack_mesh.v1 import auction_pb2_grpc
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.server import listen_local, make_server
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.job import JobSpec
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Later, Never, Now
from dstack_scheduler.wire.agent import GrpcAgent
from support.machines import gpu, key, machine, question, spec

ONE = question(Needs(cpus=1, memory_bytes=10**9, gpus=1, gpu_name="V100"))
OTHER = replace(ONE, key=key(2))
CODE = Manifest([FolderEntry("src")])


@dataclass
class Lab:
    agent: Agent
    store: ChunkStore
    accepted: list[tuple[JobSpec, tuple[str, ...], Mapping[str, str]]]


@asynccontextmanager
async def agent_at(folder: Path) -> AsyncGenerator[Lab]:
    """A real server on a Unix socket and a real client of it."""
    home = Home(folder)
    home.prepare()
    store = ChunkStore(home.chunks)
    ledger = Ledger(home.state / "ledger.db", SystemClock())
    accepted: list[tuple[JobSpec, tuple[str, ...], Mapping[str, str]]] = []

    async def accept(
        spec: JobSpec, gpu_uuids: tuple[str, ...], secrets: Mapping[str, str], given: Given
    ) -> None:
        accepted.append((spec, gpu_uuids, secrets))

    desk = BidDesk(lambda: machine(gpu(0)), ledger, store, accept)
    server = make_server()
    auction_pb2_grpc.add_AuctionServiceServicer_to_server(AuctionServicer(desk), server)
    async with AsyncExitStack() as stack:
        stack.callback(ledger.close)
        stack.callback(store.close)
        listener = listen_local(server, home.agent_socket)
        stack.callback(listener.close)
        runner = asyncio.create_task(desk.run())
        stack.push_async_callback(asyncio.gather, runner, return_exceptions=True)
        stack.callback(runner.cancel)
        await server.start()
        stack.push_async_callback(server.stop, None)
        channels = Channels(home)
        stack.push_async_callback(channels.close)
        card = PeerCard(PeerId("a" * 32), MeshId(""), "ws-1", (), "0", agent=True)
        channel = channels.to_local(home.agent_socket)
        yield Lab(GrpcAgent(channel, card, True, store), store, accepted)


async def test_ask_reserve_commit_and_release(tmp_path: Path) -> None:
    async with agent_at(tmp_path) as lab:
        assert (await lab.agent.ask(ONE)).verdict == Now(("GPU-0",))
        hold = await lab.agent.reserve(ONE, 1)
        assert (hold.gpu_uuids, hold.expires_in_seconds) == (("GPU-0",), HOLD_SECONDS)
        verdict = (await lab.agent.ask(OTHER)).verdict
        assert isinstance(verdict, Later)
        assert verdict.reasons[0].code == "gpu-busy"
        code = lab.store.put_manifest(CODE.encode())
        job = spec(ONE, code=code)
        await lab.agent.commit(hold.hold_id, 1, job, {"TOKEN": "x"})
        await lab.agent.commit(hold.hold_id, 1, job, {"TOKEN": "x"})
        assert lab.accepted[0] == (job, ("GPU-0",), {"TOKEN": "x"})
        await lab.agent.release(hold.hold_id)
        assert isinstance((await lab.agent.ask(OTHER)).verdict, Later)


async def test_each_refusal_arrives_as_itself(tmp_path: Path) -> None:
    async with agent_at(tmp_path) as lab:
        hold = await lab.agent.reserve(ONE, 2)
        with pytest.raises(Busy) as busy:
            await lab.agent.reserve(OTHER, 1)
        assert busy.value.code == "gpu-busy"
        assert "GPU 0 is held by lazy-bobcat-1" in busy.value.why
        with pytest.raises(Conflict):
            await lab.agent.reserve(ONE, 1)
        absent = spec(ONE, code=Digest(b"x" * 32))
        with pytest.raises(Refused):
            await lab.agent.commit(hold.hold_id, 2, absent, {})
        with pytest.raises(Missing):
            code = lab.store.put_manifest(CODE.encode())
            await lab.agent.commit(HoldId("gone"), 2, spec(OTHER, code=code), {})
        with pytest.raises(Invalid):
            await lab.agent.release(HoldId("no such\nid"))


async def test_never_arrives_with_its_reasons(tmp_path: Path) -> None:
    asked = replace(ONE, needs=Needs(gpus=2, cpus=99), executor=ExecutorKind.DOCKER)
    async with agent_at(tmp_path) as lab:
        verdict = (await lab.agent.ask(asked)).verdict
        assert isinstance(verdict, Never)
        assert [reason.code for reason in verdict.reasons] == ["cpu-too-few", "gpu-too-few"]
