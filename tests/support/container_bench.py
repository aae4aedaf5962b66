"""Jobs of a test in containers."""

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from dstack_agent.executor.docker import DockerExecutor
from dstack_agent.executor.environment import Site, environment_of
from dstack_agent.executor.port import Ended, Launch
from dstack_mesh.ids import RunId
from dstack_mesh.machine import Gpu
from dstack_scheduler.job import JobKey
from support.docker_lab import DockerLab
from support.launches import launch_of, spec_of

NUMBERS = itertools.count()
PERSON = 12345


class Bench:
    """Runs jobs of a test in containers, as a person who is not root."""

    def __init__(self, lab: DockerLab, image: str, folder: Path) -> None:
        self.lab = lab
        self.image = image
        self.folder = folder
        self.executor = DockerExecutor(lab.socket, agent="peer")

    def launch(self, *commands: str, **changes: Any) -> Launch:
        """A launch in a folder of its own."""
        secrets = changes.pop("secrets", {})
        gpus: tuple[Gpu, ...] = changes.pop("gpus", ())
        key = JobKey(RunId(f"{os.getpid()}r{next(NUMBERS)}"), 0)
        spec = spec_of(*commands, **({"key": key, "image": self.image} | changes))
        folder = self.folder / key.run_id
        env = environment_of(spec, gpus, Site("ws-2", "10.0.0.7"), folder, {})
        made = launch_of(folder, spec, env=env, secrets=secrets, gpus=gpus)
        if os.getuid() == 0:
            os.chown(made.work, PERSON, PERSON)
        return made

    async def start(self, *commands: str, **changes: Any) -> Path:
        """Launches; returns the job's folder."""
        launch = self.launch(*commands, **changes)
        await self.executor.launch(launch)
        return launch.folder

    async def run(self, *commands: str, **changes: Any) -> tuple[Ended, Path]:
        """Runs to the end."""
        folder = await self.start(*commands, **changes)
        return await self.end(folder), folder

    async def end(self, folder: Path) -> Ended:
        async with asyncio.timeout(60):
            return await self.executor.wait(folder)

    def containers(self, folder: Path) -> list[str]:
        return self.lab.containers(f"run.dstack.folder={folder}")


@pytest.fixture
def bench(docker_lab: DockerLab, busybox: str, tmp_path: Path) -> Bench:
    return Bench(docker_lab, busybox, tmp_path)
