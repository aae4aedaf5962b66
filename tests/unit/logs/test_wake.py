"""A poke wakes who waits for that job, and only that one."""

import asyncio
import socket
from pathlib import Path

from dstack_agent.executor.output import Output
from dstack_agent.logs.wake import Wake


def poke(path: Path, name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(name.encode(), str(path))


async def test_a_poke_wakes_the_job_it_names(tmp_path: Path) -> None:
    async with Wake(tmp_path / "wake") as wake, asyncio.TaskGroup() as group:
        mine = group.create_task(wake.wait("run.0.1", 5))
        other = group.create_task(wake.wait("run.1.1", 0.2))
        await asyncio.sleep(0)
        poke(wake.path, "run.0.1")
        assert await mine
        assert not await other


async def test_a_poke_between_looking_and_waiting_is_not_missed(tmp_path: Path) -> None:
    async with Wake(tmp_path / "wake") as wake:
        with wake.following("run.0.1") as poked:
            poke(wake.path, "run.0.1")
            async with asyncio.timeout(5):
                await poked.wait()


async def test_pokes_arrive_at_a_path_longer_than_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    job = tmp_path / "run.0.1"
    job.mkdir()
    async with Wake(folder / "wake") as wake:
        output = Output(str(job), str(wake.path))
        output.start()
        with wake.following("run.0.1") as poked:
            output.write(0, b"x")
            async with asyncio.timeout(5):
                await poked.wait()
        output.close()


async def test_a_socket_of_an_earlier_life_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(tmp_path / "wake"))
    async with Wake(tmp_path / "wake") as wake:
        assert wake.path.stat().st_mode & 0o777 == 0o600
        with wake.following("job") as poked:
            poke(wake.path, "job")
            async with asyncio.timeout(5):
                await poked.wait()
