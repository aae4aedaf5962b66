"""What the owner decides about containers, with a real engine."""

import asyncio
import itertools
import os
from pathlib import Path

import pytest

from dstack_agent.executor.docker import DockerExecutor
from dstack_agent.executor.environment import Site, environment_of
from dstack_agent.executor.port import Launch
from dstack_agent.real_cards import pids_of_jobs
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobKey
from support.docker_lab import DockerLab
from support.eventually import eventually_async
from support.launches import launch_of, spec_of, written

pytestmark = pytest.mark.docker
NUMBERS = itertools.count()


def launch(image: str, folder: Path, command: str, network: bool = True) -> Launch:
    key = JobKey(RunId(f"{os.getpid()}o{next(NUMBERS)}"), 0)
    spec = spec_of(command, key=key, image=image)
    env = environment_of(spec, (), Site("ws-2", "10.0.0.7"), folder, {})
    made = launch_of(folder / key.run_id, spec, env=env)
    return Launch(made.folder, made.work, spec, (), env, {}, network=network)


@pytest.mark.parametrize("network", [True, False])
async def test_a_container_has_a_network_only_where_the_owner_gives_one(
    docker_lab: DockerLab, busybox: str, tmp_path: Path, network: bool
) -> None:
    executor = DockerExecutor(docker_lab.socket, agent="peer")
    made = launch(busybox, tmp_path, "ls /sys/class/net | cat", network)
    await executor.launch(made)
    async with asyncio.timeout(60):
        assert (await executor.wait(made.folder)).exit_code == 0
    seen = set(written(made.folder)[0].decode().split())
    bridged = docker_lab.docker("network", "inspect", "bridge", check=False).returncode == 0
    assert "lo" in seen
    assert ("eth0" in seen) is (network and bridged)


async def test_what_computes_in_a_jobs_container_is_no_stranger(
    docker_lab: DockerLab, busybox: str, tmp_path: Path
) -> None:
    executor = DockerExecutor(docker_lab.socket, agent="peer")
    made = launch(busybox, tmp_path, "sleep 4321 & sleep 4321")
    await executor.launch(made)

    async def sleepers() -> set[int]:
        found = await asyncio.to_thread(_sleepers)
        return found if len(found) == 2 else set()

    try:
        computing = await eventually_async(sleepers, within=20)
        assert computing <= pids_of_jobs([made.folder])
        assert not computing & pids_of_jobs([])
    finally:
        await executor.stop(made.folder, True)
        async with asyncio.timeout(60):
            await executor.wait(made.folder)


def _sleepers() -> set[int]:
    found: set[int] = set()
    for process in Path("/proc").iterdir():
        try:
            if (process / "cmdline").read_bytes() == b"sleep\x004321\x00":
                found.add(int(process.name))
        except OSError:
            continue
    return found
