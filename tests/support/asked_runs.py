"""A RunService of an agent that executes nothing, over mutual TLS, and what it was asked to do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import grpc.aio

from dstack_agent.jobs.chronicle import Followed
from dstack_agent.servicers.attach import Wishes
from dstack_agent.servicers.resting import Rests
from dstack_agent.servicers.run import Runs, RunServicer
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Missing
from dstack_mesh.ids import Address, Digest, PeerId, RunId
from dstack_mesh.run_ids import run_id
from dstack_mesh.trust.membership import Role
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire.caller import Caller
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.server import listen_tcp, make_server
from dstack_scheduler.agent_port import DrivenJob, Listing
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import JobKey, RunRecord, TagRecord
from support.meshes import Mesh, member

SUBMITTER = PeerId("o" * 32)
NOTHING = Listing((), ())


class Told:
    """What an agent was asked to do, and the run that it was about."""

    def __init__(self, run: RunId) -> None:
        self.run = run
        self.stopped: list[RunId] = []
        self.driven: list[PeerId] = []
        self.edited: list[PeerId] = []

    async def givers(self, run_id: RunId) -> frozenset[PeerId]:
        return frozenset()

    def follow(self, key: JobKey) -> Followed:
        raise Missing("There is no such job.", str(key))

    async def stop(self, run_id: RunId, job: int | None, abort: bool, cause: str) -> int:
        self.stopped.append(run_id)
        return 1

    async def drive(
        self, record: RunRecord, jobs: tuple[DrivenJob, ...], epoch: int, behalf: Asker
    ) -> None:
        self.driven.append(behalf.peer_id)

    def heard(self, *said: object) -> None:
        """Who did what goes into the audit log, which other tests read."""

    async def tag(self, tag: TagRecord, by: PeerId) -> None:
        raise AssertionError("nobody names")

    async def remove(self, run_id: RunId, who: Caller) -> None:
        raise AssertionError("nobody removes")

    async def reload(self, key: JobKey, code: Digest, peer: PeerId) -> Replaced:
        self.edited.append(peer)
        return Replaced(1, 2)

    async def forget(self, peer: PeerId, repo: str, workflow: str) -> int:
        raise AssertionError("nobody has caches")


class Asked(NamedTuple):
    """How to ask the agent, and what it hears."""

    stub: rpc.RunServiceAsyncStub
    told: Told
    channel: grpc.aio.Channel


@asynccontextmanager
async def asked_by(
    role: Role, folder: Path, *, own: bool = True, listing: Listing = NOTHING
) -> AsyncGenerator[Asked]:
    """An agent that has a run, of the member or of another one, asked by a member of a role."""
    mesh = Mesh.make(folder / "root")
    home = mesh.admit(folder / "member", role=role)
    told = Told(run_id(1, 0, member(home).peer_id if own else SUBMITTER))
    store = ChunkStore(folder / "chunks")
    wishes = Wishes(told.follow, told.stop, store, told.givers)
    runs = Runs(
        lambda names, keys, before: (
            run for run in listing.runs if not before or run.run_id < before
        ),
        lambda names: replace(listing, runs=()),
        told.drive,
        told.tag,
        told.heard,
        told.heard,
        told.remove,
        told.heard,
        told.forget,
        told.reload,
    )
    server, channels = make_server(), Channels(home)
    rpc.add_RunServiceServicer_to_server(RunServicer(wishes, runs, Rests()), server)
    port = listen_tcp(server, member(mesh.root), "127.0.0.1", 0)
    await server.start()
    try:
        channel = channels.to_unknown(Address(f"127.0.0.1:{port}"))
        yield Asked(rpc.RunServiceStub(channel), told, channel)
    finally:
        await channels.close()
        await server.stop(0)
        store.close()
