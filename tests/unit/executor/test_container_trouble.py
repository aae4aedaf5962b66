"""What the Docker executor does without an engine when something is wrong."""

import asyncio
import os
import subprocess
from pathlib import Path

from dstack_agent.executor import record
from dstack_agent.executor.docker import DockerExecutor


def test_a_stop_that_cannot_be_noted_reaches_the_shim(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as shim:
        assert record.claim(str(tmp_path), shim.pid)
        (tmp_path / record.ASKED).mkdir()  # no file can be written there, as on a full disk
        asyncio.run(DockerExecutor(Path(os.devnull)).stop(tmp_path, abort=False))
        assert shim.wait(10) == -15
