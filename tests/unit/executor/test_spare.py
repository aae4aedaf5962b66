"""A shim that waits for its job: it is used once, replaced, and missed by nobody if it dies."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest

from dstack_agent.executor import record
from dstack_agent.executor.port import Ended
from dstack_agent.executor.process import ProcessExecutor
from dstack_agent.executor.starting import Spare, start_shim
from dstack_agent.executor.task import Task
from dstack_agent.executor.watching import read_shim
from dstack_mesh.faults import Refused, TooLate
from dstack_mesh.machine import ExecutorKind
from support.eventually import eventually_async
from support.launches import launch_of, spec_of, written

PROCESS = ExecutorKind.PROCESS


@asynccontextmanager
async def keeping() -> AsyncGenerator[Spare]:
    """A spare that is kept ready within the block."""
    spare = Spare()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(spare.run())
        try:
            yield spare
        finally:
            running.cancel()


async def pid(spare: Spare) -> int:
    """The process that waits, once there is one."""

    async def look() -> int:
        return spare.waiting

    return await eventually_async(look, within=10)


async def ran(executor: ProcessExecutor, folder: Path, command: str) -> Ended:
    await executor.launch(launch_of(folder, spec_of(command)))
    return await executor.wait(folder)


async def test_each_job_takes_the_one_that_waits_and_another_takes_its_place(
    tmp_path: Path,
) -> None:
    async with keeping() as spare:
        executor = ProcessExecutor(spare=spare)
        seen: list[int] = []
        for number in range(3):
            seen.append(await pid(spare))
            ended = await ran(executor, tmp_path / f"r.{number}.1", f"echo {number}; exit {number}")
            assert ended.exit_code == number
            assert written(tmp_path / f"r.{number}.1")[0] == f"{number}\n".encode()
        assert len(set(seen)) == 3


async def test_a_job_whose_spare_was_killed_starts_once(tmp_path: Path) -> None:
    async with keeping() as spare:
        os.kill(await pid(spare), signal.SIGKILL)
        ended = await ran(ProcessExecutor(spare=spare), tmp_path / "r.0.1", "echo once")
        assert ended.exit_code == 0
        assert written(tmp_path / "r.0.1")[0] == b"once\n"


async def test_a_spare_without_a_job_ends_with_its_agent() -> None:
    async with keeping() as spare:
        waiting = await pid(spare)
    with pytest.raises(ProcessLookupError):
        os.kill(waiting, 0)


@pytest.mark.parametrize("turns", range(8))
async def test_it_ends_at_whatever_moment_it_is_told_to(turns: int) -> None:
    """Also half-way through the start of a process."""
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(Spare().run())
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()


async def test_a_job_whose_shim_does_not_answer_never_starts(tmp_path: Path) -> None:
    async with keeping() as spare:
        slow = await pid(spare)
        os.kill(slow, signal.SIGSTOP)
        with pytest.raises(TooLate):
            await start_shim(tmp_path, PROCESS, task(tmp_path), spare, seconds=0.2)
        assert not record.start_time(slow), "it is gone for good"
        shim = read_shim(tmp_path)
        assert shim is not None
        assert not shim.pid, "a shim that answers still later is refused"
    assert not (tmp_path / "started").exists()


async def test_a_job_whose_shim_answers_too_late_is_launched(tmp_path: Path) -> None:
    async with keeping() as spare:
        slow = await pid(spare)
        os.kill(slow, signal.SIGSTOP)
        assert record.claim(str(tmp_path), os.getpid())
        await start_shim(tmp_path, PROCESS, task(tmp_path), spare, seconds=0.2)
        assert not record.start_time(slow), "it is gone for good"


@pytest.mark.parametrize("lives", [True, False])
async def test_a_job_that_a_slow_shim_took_meanwhile_is_launched_while_that_lives(
    tmp_path: Path, lives: bool
) -> None:
    record.claim(str(tmp_path), os.getpid())
    if not lives:
        text = (tmp_path / record.SHIM).read_text()
        (tmp_path / record.SHIM).write_text(text.replace(str(os.getpid()), "4194304"))
    with nullcontext() if lives else pytest.raises(Refused):
        await start_shim(tmp_path, PROCESS, task(tmp_path))
    assert not (tmp_path / "started").exists()


def task(folder: Path) -> bytes:
    return Task(["/bin/sh", "-c", "touch started"], str(folder), {}).encode()
