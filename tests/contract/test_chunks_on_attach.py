"""Chunks of artifacts come to a reader with a store of its own, on the stream that it follows."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.ids import Digest
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.transfer import TransferClient
from dstack_scheduler.agent_port import Attachment, Question
from dstack_scheduler.follow import Follower
from dstack_scheduler.job import Fin, JobSpec, JobState
from dstack_scheduler.progress import Progress
from dstack_scheduler.wire.agent import GrpcAgent
from support.agent_process import UNKNOWN, AgentProcess, agent_process
from support.eventually import eventually_async
from support.fake_directory import FakeDirectory
from support.submissions import planned, submission

SIZE = 300_000


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[tuple[AgentProcess, GrpcAgent, ChunkStore]]:
    """An agent, and somebody who shares no store with it."""
    with agent_process(tmp_path / "home") as process:
        channels, store = Channels(process.home), ChunkStore(tmp_path / "mine")
        channel = channels.to_local(process.home.agent_socket)
        try:
            yield process, GrpcAgent(channel, UNKNOWN, False, store), store
        finally:
            await channels.close()
            store.close()


def save_code(store: ChunkStore, folder: Path) -> Digest:
    folder.mkdir()
    (folder / "hello.txt").write_text("hello")
    return save_tree(store, folder).digest


async def run_job(agent: GrpcAgent, store: ChunkStore, folder: Path) -> Fin:
    """A job that keeps one file."""
    code = await asyncio.to_thread(save_code, store, folder)
    write = f"mkdir -p job-0-out && head -c {SIZE} /dev/urandom > job-0-out/data"
    spec = replace(submission(planned(0, write)).jobs[0].spec, code_digest=code)
    question = Question(spec.key, spec.run_name, spec.needs, spec.executor)
    hold = await agent.reserve(question, 1)
    assert await agent.send_tree(code) > 0
    await agent.commit(hold.hold_id, 1, spec, {})
    return await last_word(agent, spec)


async def last_word(agent: GrpcAgent, spec: JobSpec) -> Fin:
    async def tell(event: Progress) -> None:
        pass

    last = await Follower(spec.key, agent, FakeDirectory(), tell, lambda: 0.5).run()
    assert isinstance(last, Fin)
    assert last.state.state is JobState.DONE
    return last


async def test_wanted_chunks_arrive_in_the_readers_store(
    reader: tuple[AgentProcess, GrpcAgent, ChunkStore], tmp_path: Path
) -> None:
    process, agent, store = reader
    fin = await run_job(agent, store, tmp_path / "code")
    (artifact,) = fin.artifacts
    channels = Channels(process.home)
    channel = channels.to_local(process.home.agent_socket)
    manifest = await TransferClient(channel, store, "the agent").fetch_manifest(artifact.digest)
    chunks = list(manifest.chunk_digests())
    assert store.missing(chunks) == chunks

    async with agent.attach() as attachment, asyncio.TaskGroup() as tasks:
        await attachment.want(chunks)
        reading = tasks.create_task(drain(attachment))

        async def all_here() -> bool:
            return not store.missing(chunks)

        assert await eventually_async(all_here, within=10)
        reading.cancel()
    await channels.close()
    assert sum(len(store.get(chunk)) for chunk in chunks) == SIZE


async def drain(attachment: Attachment) -> None:
    async for event in attachment.events():
        raise AssertionError(f"nobody asked for {event}")


async def test_a_whole_tree_is_fetched(
    reader: tuple[AgentProcess, GrpcAgent, ChunkStore], tmp_path: Path
) -> None:
    _, agent, store = reader
    fin = await run_job(agent, store, tmp_path / "code")
    digest: Digest = fin.artifacts[0].digest
    assert store.missing_manifest(digest)

    assert await agent.fetch_tree(digest) >= SIZE

    assert not store.missing_manifest(digest)
