"""Commands beside jobs in containers of a real engine."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dstack_agent.executor.container_visit import MARK
from dstack_mesh.tunnel.descriptors import read_some, write_all
from dstack_scheduler.errand import Errand, Outcome, Window
from support.container_bench import Bench
from support.eventually import eventually
from support.launches import written
from support.visits import does, spoken

pytestmark = pytest.mark.docker

WAITS = "echo up; while [ ! -e over ]; do sleep 0.1; done; exit 5"
SECRET = "canary-4711 'quoted'\n"


@asynccontextmanager
async def job(bench: Bench, **changes: object) -> AsyncGenerator[Path]:
    folder = await bench.start(WAITS, **changes)
    try:
        await asyncio.to_thread(eventually, lambda: written(folder)[0] == b"up\n", 30)
        yield folder
    finally:
        await bench.executor.stop(folder, abort=True)
        await bench.end(folder)


async def test_a_command_has_what_the_job_has_and_its_own_streams(bench: Bench) -> None:
    given = os.urandom(1 << 20)
    filled = {"URL": "https://${{ secrets.TOKEN }}@host"}
    secrets = {"TOKEN": SECRET}
    changes = {"secrets": secrets, "secret_names": ("TOKEN",), "env": filled}
    async with job(bench, **changes) as folder:
        assert await does(bench.executor, folder, "cat", given=given) == (Outcome(0), [given, b""])
        look = 'printf %s "$TOKEN$URL$RUN_NAME" | cat; id -u >&2; exit 7'
        outcome, (out, err) = await does(bench.executor, folder, "sh", "-c", look)
        url = filled["URL"].replace("${{ secrets.TOKEN }}", SECRET)
        assert (outcome, out) == (Outcome(7), f"{SECRET}{url}lazy-bobcat-1".encode())
        assert int(err) == (folder / "work").stat().st_uid
        (container,) = bench.containers(folder)
        assert b"canary" not in bench.lab.docker("inspect", container).stdout
        (folder / "work" / "over").touch()
        assert (await bench.end(folder)).exit_code == 5 and written(folder) == (b"up\n", b"")


async def test_what_is_not_there_is_127_and_without_a_command_there_is_a_shell(
    bench: Bench,
) -> None:
    async with job(bench) as folder:
        assert (await does(bench.executor, folder, "no-such-thing"))[0].exit_code == 127
        assert await does(bench.executor, folder, given=b"pwd; exit 4") == (
            Outcome(4),
            [b"/workflow\n", b""],
        )
        async with bench.executor.visit(folder, Errand((), "vt220", Window(9, 31))) as visit:
            await write_all(visit.stdin, b"echo $((40+2)) $TERM; exit 6\n")
            outcome, (seen,) = await spoken(visit)
        assert outcome == Outcome(6) and b"42 vt220" in seen


@pytest.mark.parametrize("how", ["it ended", "nobody is there"])
async def test_nothing_is_left_of_it(how: str, bench: Bench) -> None:
    def marked() -> int:
        found = (pid for pid in os.listdir("/proc") if pid.isdigit())  # noqa: PTH208
        return sum(f"{MARK}=".encode() in _environment(pid) for pid in found)

    async with job(bench) as folder:
        before = marked()
        leaves = "(setsid sleep 1000 &) ; sleep 1000 & read x; exit 3"
        async with bench.executor.visit(folder, Errand(("sh", "-c", leaves))) as visit:
            await asyncio.to_thread(eventually, lambda: marked() >= before + 3, 20)
            if how == "it ended":
                assert (await spoken(visit, b"\n"))[0] == Outcome(3)
        assert marked() == before
        assert (await does(bench.executor, folder, "true"))[0] == Outcome(0)


def _environment(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


async def test_an_interrupt_is_the_commands_alone_and_the_end_of_the_job_ends_it(
    bench: Bench,
) -> None:
    async with job(bench) as folder:
        takes = "trap 'exit 9' INT; echo here; while :; do sleep 0.1; done"
        async with bench.executor.visit(folder, Errand(("sh", "-c", takes))) as visit:
            assert await read_some(visit.outputs[0], 10) == b"here\n"
            await visit.interrupt()
            assert (await spoken(visit))[0] == Outcome(9)
        async with bench.executor.visit(folder, Errand(("sleep", "1000"))) as visit:
            (folder / "work" / "over").touch()
            assert (await bench.end(folder)).exit_code == 5
            assert (await spoken(visit))[0].exit_code == 137
