"""Agents and shims that die over a job, machines that start again, and full disks."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dstack_agent.executor import record
from dstack_agent.executor.process import ProcessExecutor
from support.eventually import eventually
from support.launches import launch_of, shim_pid, spec_of, written
from support.processes import alive

PYTHON = sys.executable

LAUNCHER = """
import asyncio, sys
from pathlib import Path
from dstack_agent.executor.process import ProcessExecutor
from support.launches import has_vault, launch_of, spec_of
command = "echo first; while [ ! -e go ]; do sleep 0.05; done; echo second; exit 7"
folder = Path(sys.argv[1])
asyncio.run(ProcessExecutor().launch(launch_of(folder, spec_of(command))))
print("launched", flush=True)
sys.stdin.read()
"""


def _launch_and_die(folder: Path) -> None:
    roots = [str(Path(__file__).parents[3] / name) for name in ("agent", "mesh", "scheduler")]
    roots.append(str(Path(__file__).parents[2]))
    with subprocess.Popen(
        (PYTHON, "-c", LAUNCHER, str(folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(roots)},
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"launched\n"
        agent.kill()


async def test_a_job_outlives_the_agent_and_another_one_waits_for_it(folder: Path) -> None:
    await asyncio.to_thread(_launch_and_die, folder)
    eventually(lambda: written(folder)[0] == b"first\n", within=5)
    (folder / "work" / "go").touch()
    ended = await ProcessExecutor().wait(folder)
    assert ended.exit_code == 7
    assert written(folder)[0] == b"first\nsecond\n"


@pytest.mark.parametrize("daemon", ["sleep 99", "(setsid sleep 99 &); sleep 98"])
async def test_a_killed_shim_loses_the_job_and_leaves_nothing_running(
    folder: Path, daemon: str
) -> None:
    executor = ProcessExecutor()
    await executor.launch(launch_of(folder, spec_of("echo here", daemon)))
    eventually(lambda: alive(folder) and written(folder)[0], within=5)
    os.kill(shim_pid(folder), signal.SIGKILL)
    ended = await executor.wait(folder)
    assert (ended.exit_code, ended.reason) == (None, "shim-lost")
    assert await executor.wait(folder) == ended
    assert alive(folder) == set()
    assert written(folder)[0] == b"here\n"


def _claimed(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / record.SHIM).write_text(text)


async def test_the_job_of_an_earlier_boot_is_lost(folder: Path) -> None:
    _claimed(folder, json.dumps({"pid": os.getpid(), "start_time": 1, "boot": "another"}))
    ended = await ProcessExecutor().wait(folder)
    assert (ended.reason, "restarted" in ended.cause) == ("shim-lost", True)


async def test_a_pid_that_was_used_again_is_not_signalled(folder: Path) -> None:
    text = record.shim_text(os.getpid())
    _claimed(folder, text.replace('"start_time": ', '"start_time": 1'))
    await ProcessExecutor().stop(folder, abort=True)
    assert (await ProcessExecutor().wait(folder)).reason == "shim-lost"


async def test_a_full_disk_ends_the_job_by_name_and_never_hangs(folder: Path) -> None:
    """A limit on the size of files stands for the full disk: the same error, at the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    executor = ProcessExecutor()
    try:
        endless = spec_of("yes", stop_grace_seconds=2)
        await executor.launch(launch_of(folder, endless))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    async with asyncio.timeout(15):
        ended = await executor.wait(folder)
    assert (ended.exit_code, ended.reason) == (143, "disk-full")
    fields = json.loads((folder / record.EXIT).read_bytes())
    assert fields["lost_bytes"] > 0
    assert len(written(folder)[0]) + fields["lost_bytes"] == fields["stdout_bytes"]
    assert len(written(folder)[0]) > 100_000
