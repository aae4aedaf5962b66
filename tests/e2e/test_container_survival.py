"""Shims, agents and containers that die under a job, and what is left."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from dstack_agent.executor import record
from dstack_agent.executor.docker import DockerExecutor
from dstack_agent.executor.leftovers import remove_leftovers
from support.container_bench import Bench
from support.eventually import eventually
from support.launches import shim_pid, written

pytestmark = pytest.mark.docker


async def test_a_killed_shim_is_replaced_and_no_byte_is_lost_or_doubled(bench: Bench) -> None:
    commands = (
        "i=0; while [ $i -lt 3000 ]; do echo line $i; echo note $i >&2; i=$((i+1)); "
        "[ $((i % 100)) -ne 0 ] || sleep 0.1; done",
        "exit 9",
    )
    folder = await bench.start(*commands)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bench.end(folder))
        for _ in range(3):
            before = len(written(folder)[0])
            pid = shim_pid(folder)
            await asyncio.to_thread(_grown, folder, before + 500)
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(_replaced, folder, pid)
        ended = await waiting
    assert ended.exit_code == 9
    lines = ("".join(f"{word} {i}\n" for i in range(3000)).encode() for word in ("line", "note"))
    assert written(folder) == tuple(lines)
    assert bench.containers(folder) == []


def _grown(folder: Path, size: int) -> None:
    eventually(lambda: len(written(folder)[0]) >= size, within=20)


def _replaced(folder: Path, pid: int) -> None:
    eventually(lambda: shim_pid(folder) != pid, within=20)


async def test_another_agent_stops_a_job_whose_shim_is_dead(bench: Bench) -> None:
    folder = await bench.start("echo ready", "sleep 100")
    eventually(lambda: written(folder)[0], within=20)
    os.kill(shim_pid(folder), signal.SIGKILL)
    later = DockerExecutor(bench.lab.socket)
    await later.stop(folder, abort=False)
    async with asyncio.timeout(30):
        ended = await later.wait(folder)
    assert ended.reason == "stopped"
    assert written(folder)[0] == b"ready\n"


async def test_a_shim_killed_after_it_recorded_the_exit_leaves_no_container(bench: Bench) -> None:
    folder = await bench.start("echo ready", "sleep 100")
    eventually(lambda: written(folder)[0], within=20)
    os.kill(shim_pid(folder), signal.SIGKILL)
    record.write_exit(str(folder), {"exit_code": 3, "reason": "", "cause": ""})
    assert (await bench.end(folder)).exit_code == 3
    assert bench.containers(folder) == []


async def test_a_container_that_somebody_removed_is_not_called_a_success(bench: Bench) -> None:
    folder = await bench.start("echo ready", "sleep 100")
    eventually(lambda: written(folder)[0], within=20)
    (container,) = bench.containers(folder)
    bench.lab.docker("rm", "-f", container)
    ended = await bench.end(folder)
    assert ended.exit_code != 0


async def test_a_job_that_was_never_started_leaves_no_container(bench: Bench) -> None:
    folder = bench.launch("true").folder
    ended = await bench.end(folder)
    assert (ended.exit_code, ended.reason) == (None, "shim-lost")
    assert bench.containers(folder) == []


async def test_what_an_engine_kept_of_a_job_that_ended_goes_later_and_what_runs_stays(
    bench: Bench,
) -> None:
    """Its shim died and nobody could remove the container; it even runs on."""
    left, runs = await bench.start("sleep 100"), await bench.start("sleep 100")
    os.kill(shim_pid(left), signal.SIGKILL)
    assert bench.containers(left) and bench.containers(runs)
    assert remove_leftovers(bench.lab.socket, "somebody else", lambda folder: True) == 0
    assert remove_leftovers(bench.lab.socket, "peer", lambda folder: folder == left) == 1
    assert bench.containers(left) == []
    assert bench.containers(runs)
    await bench.executor.stop(runs, abort=True)
    await bench.end(runs)
