"""A job as processes, to its end."""

import asyncio
from pathlib import Path

import pytest

from dstack_agent.executor.port import Ended
from dstack_agent.executor.process import MARK, ProcessExecutor
from dstack_agent.executor.tree import holders_of
from support.launches import launch_of, spec_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "01run.0.1"


async def run(folder: Path, *commands: str, **changes: object) -> Ended:
    """Runs a job to its end."""
    executor = ProcessExecutor()
    await executor.launch(launch_of(folder, spec_of(*commands, **changes)))
    async with asyncio.timeout(30):
        return await executor.wait(folder)


def alive(folder: Path) -> set[int]:
    """Processes of the job."""
    return holders_of(f"{MARK}={folder}".encode())
