"""The daemon with a real Docker engine: places of a container, images that are missing, kills."""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.ids import RunId, RunName
from dstack_mesh.machine import JobLoad
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import Fin, Input, JobKey, JobSpec, JobState, LogFrame
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire.agent import GrpcAgent
from support.agent_process import AgentProcess, agent_process
from support.docker_lab import DockerLab, busybox, docker_lab
from support.eventually import eventually_async

__all__ = ["busybox", "docker_lab"]

pytestmark = pytest.mark.docker


@pytest.fixture
def process(
    tmp_path: Path, docker_lab: DockerLab, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AgentProcess]:
    monkeypatch.setenv("DOCKER_HOST", docker_lab.host)
    with agent_process(tmp_path / "h") as started:
        yield started


def spec_of(process: AgentProcess, image: str, *commands: str) -> JobSpec:
    store = ChunkStore(process.home.chunks)
    try:
        nothing = store.put_manifest(Manifest(()).encode())
    finally:
        store.close()
    return JobSpec(
        key=JobKey(RunId(secrets.token_hex(13)), 0, 1),
        run_name=RunName("calm-ibex-1"),
        workflow="train",
        provider="docker",
        image=image,
        commands=commands,
        needs=Needs(),
        code_digest=nothing,
        submitted_at=datetime.now(UTC),
        stop_grace_seconds=2.0,
    )


async def award(agent: GrpcAgent, spec: JobSpec) -> JobKey:
    question = Question(spec.key, spec.run_name, spec.needs, spec.executor)
    hold = await agent.reserve(question, 1)
    await agent.commit(hold.hold_id, 1, spec, {})
    return spec.key


async def read(
    agent: GrpcAgent, key: JobKey, output: bytearray, until: bytes = b"\0"
) -> Fin | None:
    """Reads on from what is there; until the last word, or until something was printed."""
    async with agent.attach() as attachment, asyncio.timeout(60):
        await attachment.follow(key, len(output))
        async for event in attachment.events():
            if isinstance(event, LogFrame):
                assert event.offset_bytes == len(output)
                output += event.data
            if isinstance(event, Fin):
                return event
            if until in output:
                return None
    raise AssertionError("the stream ended without a last word")


async def test_artifacts_lie_where_the_container_has_them(
    process: AgentProcess, busybox: str
) -> None:
    async with process.agent() as agent:
        spec = spec_of(
            process, busybox, "echo a > rel/a; echo b > /opt/env/b; echo c > ~/c/c; pwd; exit 0"
        )
        spec = replace(spec, artifacts=("rel", "/opt/env", "~/c"), working_dir="deep")
        output = bytearray()
        fin = await read(agent, await award(agent, spec), output)
        assert fin is not None
        assert (fin.state.state, fin.state.cause) == (JobState.DONE, "")
        assert bytes(output) == b"/workflow/deep\n"
        kept = {artifact.path: artifact for artifact in fin.artifacts}
        assert {path: each.files for path, each in kept.items()} == {
            "rel": 1,
            "/opt/env": 1,
            "~/c": 1,
        }
        again = spec_of(process, busybox, "cat rel/a /opt/env/b ~/c/c")
        inputs = tuple(Input(each.digest, path) for path, each in kept.items())
        output = bytearray()
        fin = await read(agent, await award(agent, replace(again, inputs=inputs)), output)
        assert fin is not None
        assert fin.state.cause == ""
        assert bytes(output) == b"a\nb\nc\n"


async def test_a_container_starts_in_a_folder_of_its_image_and_keeps_what_hangs_off_it(
    process: AgentProcess, busybox: str
) -> None:
    async with process.agent() as agent:
        spec = spec_of(process, busybox, "pwd; echo a > rel/a; exit 0")
        spec = replace(spec, artifacts=("rel",), working_dir="/srv/app")
        output = bytearray()
        fin = await read(agent, await award(agent, spec), output)
        assert fin is not None
        assert (fin.state.state, fin.state.cause) == (JobState.DONE, "")
        assert output.startswith(b"/srv/app\n")
        (kept,) = fin.artifacts
        assert (kept.path, kept.files) == ("rel", 1)
        again = replace(
            spec_of(process, busybox, "cat rel/a ../app/rel/a"),
            inputs=(Input(kept.digest, "rel"),),
            working_dir="/srv/app",
        )
        output = bytearray()
        assert await read(agent, await award(agent, again), output)
        assert bytes(output) == b"a\na\n"


async def test_a_missing_image_is_told_by_name(process: AgentProcess) -> None:
    async with process.agent() as agent:
        key = await award(agent, spec_of(process, "dstack-lab/nothing:9", "true"))
        fin = await read(agent, key, bytearray())
    assert fin is not None
    assert (fin.state.state, fin.state.reason) == (JobState.FAILED, "image-missing")
    assert "dstack-lab/nothing:9" in fin.state.cause


async def test_a_container_outlives_the_agent_and_no_byte_is_lost(
    process: AgentProcess, busybox: str
) -> None:
    lines = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 3"
    output = bytearray()
    async with process.agent() as agent:
        key = await award(agent, spec_of(process, busybox, lines))
        await read(agent, key, output, until=b"line 50\n")
    for _ in range(3):
        process.kill()
        assert process.start() < 5
    async with process.agent() as agent:
        fin = await read(agent, key, output)
    assert fin is not None
    assert bytes(output) == b"".join(b"line %d\n" % i for i in range(300))
    assert fin.state.exit_code == 3


async def test_a_stop_ends_a_container_within_its_grace(
    process: AgentProcess, busybox: str
) -> None:
    async with process.agent() as agent:
        spec = spec_of(process, busybox, "trap '' TERM; echo up; sleep 60")
        key = await award(agent, spec)
        output = bytearray()
        await read(agent, key, output, until=b"up\n")
        await agent.stop(key.run_id, None, False, "enough")
        async with asyncio.timeout(15):
            fin = await read(agent, key, output)
    assert fin is not None
    assert fin.state.state is JobState.STOPPED


async def test_what_a_container_uses_is_told(process: AgentProcess, busybox: str) -> None:
    async def measured() -> JobLoad | None:
        load = (await process.hello()).load
        jobs = load.jobs if load is not None else ()
        return next((job for job in jobs if job.cpus), None)

    async with process.agent() as agent:
        key = await award(agent, spec_of(process, busybox, "echo up; while true; do :; done"))
        await read(agent, key, bytearray(), until=b"up\n")
        job = await eventually_async(measured, within=20, every=0.2)
        assert job is not None and (job.run_id, job.job) == (key.run_id, key.job)
        assert job.cpus is not None and 0 < job.cpus < 2
        assert 10**4 < job.memory_bytes < 10**9
        await agent.stop(key.run_id, None, True, "enough")
        assert await read(agent, key, bytearray()) is not None
