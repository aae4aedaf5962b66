"""Commands beside a process job: as the job is, and gone with whoever asked for them or with it."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dstack_agent.executor import asking, landlock
from dstack_agent.executor.asking import Asked
from dstack_agent.executor.masking import why_no_masks
from dstack_agent.executor.process import ProcessExecutor
from dstack_agent.executor.walls import WORK
from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.tunnel.descriptors import read_some, write_all
from dstack_scheduler.errand import Errand, Outcome, Window
from support.eventually import eventually
from support.launches import launch_of, spec_of, written
from support.processes import alive
from support.processes import folder as folder
from support.visits import does, spoken

WAITS = "echo up; cd /; trap 'exit 3' TERM; while [ ! -e $OVER ]; do sleep 0.05; done"
SECRET = "canary-4711"
OWN_SPACE = str(Path("/proc/self/ns/mnt").readlink()).encode()


async def until(look: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, look, 20)


@asynccontextmanager
async def job(folder: Path, *commands: str, **changes: object) -> AsyncGenerator[ProcessExecutor]:
    """One that runs until the file `over` is there; ended with the block."""
    executor = ProcessExecutor()
    env = {"PATH": os.defpath, "OVER": str(folder / WORK / "over")}
    spec = spec_of(*(commands or (WAITS,)), stop_grace_seconds=20.0)
    await executor.launch(launch_of(folder, spec, env=env, **changes))
    try:
        await until(lambda: b"up" in written(folder)[0])
        yield executor
    finally:
        await executor.stop(folder, abort=True)
        await executor.wait(folder)


async def test_a_command_has_what_the_job_has_and_its_own_streams(folder: Path) -> None:
    secrets = {"TOKEN": SECRET}
    spec = spec_of(WAITS, secret_names=("TOKEN",))
    executor = ProcessExecutor()
    env = {"PATH": os.defpath, "OVER": str(folder / WORK / "over"), "GREETING": "a 'b'"}
    await executor.launch(launch_of(folder, spec, env=env, secrets=secrets))
    try:
        look = 'cat; echo "$GREETING $TOKEN $PWD"; echo err >&2; umask; exit 7'
        outcome, outputs = await does(executor, folder, "sh", "-c", look, given=b"in\0\xff")
        told = f"a 'b' {SECRET} {folder / WORK}\n0077\n".encode()
        assert (outcome, outputs) == (Outcome(7), [b"in\0\xff" + told, b"err\n"])
    finally:
        (folder / WORK / "over").touch()
        ended = await executor.wait(folder)
    assert ended.exit_code == 0 and written(folder) == (b"up\n", b"")
    assert not (folder / asking.HATCH).exists() and not (folder / asking.KEY).exists()


async def test_what_is_not_there_is_127_and_what_cannot_be_started_is_126(folder: Path) -> None:
    async with job(folder) as executor:
        (folder / WORK / "plain").touch()
        for program, code in (("no-such-thing", 127), ("./plain", 126), ("/", 126)):
            outcome, _ = await does(executor, folder, program)
            assert outcome.exit_code == code and program in outcome.why
        assert (await does(executor, folder, "sh", "-c", "kill -9 $$"))[0] == Outcome(137)


async def test_without_a_command_there_is_a_shell(folder: Path) -> None:
    async with job(folder) as executor:
        outcome, outputs = await does(executor, folder, given=b"echo $OVER; exit 4")
        assert (outcome, outputs[0]) == (Outcome(4), f"{folder / WORK / 'over'}\n".encode())


@pytest.mark.parametrize("how", ["it ended", "nobody is there"])
async def test_nothing_is_left_of_it(how: str, folder: Path) -> None:
    async with job(folder) as executor:
        before = len(alive(folder))
        leaves = "trap '' HUP; (setsid sleep 1000 &) ; sleep 1000 & "
        async with executor.visit(folder, Errand(("sh", "-c", f"{leaves} read x"))) as visit:
            await until(lambda: len(alive(folder)) >= before + 3)
            if how == "it ended":
                assert (await spoken(visit))[0] == Outcome(1)
        await until(lambda: len(alive(folder)) <= before)


async def test_a_job_ends_when_it_would_have_and_the_command_with_it(folder: Path) -> None:
    """An interactive shell takes no SIGTERM; the job does not wait for it."""
    async with job(folder) as executor:
        deaf = "trap '' TERM HUP INT; echo here; while :; do sleep 1; done"
        async with executor.visit(folder, Errand(("sh", "-c", deaf))) as visit:
            assert await read_some(visit.outputs[0], 10) == b"here\n"
            began = time.monotonic()
            await executor.stop(folder, abort=False)
            ended = await executor.wait(folder)
            assert ended.exit_code == 3 and time.monotonic() - began < 10
            outcome, _ = await spoken(visit)
            assert outcome.exit_code == 137 and "the job is over" in outcome.why
        assert not alive(folder)
        with pytest.raises(Refused) as refused:
            await does(executor, folder, "true")
        assert refused.value.code == "no-way-in"


async def test_an_interrupt_is_the_commands_alone(folder: Path) -> None:
    async with job(folder) as executor:
        takes = "trap 'exit 9' INT; echo here; while :; do sleep 0.05; done"
        async with executor.visit(folder, Errand(("sh", "-c", takes))) as visit:
            assert await read_some(visit.outputs[0], 10) == b"here\n"
            await visit.interrupt()
            assert (await spoken(visit))[0] == Outcome(9)
        assert (await does(executor, folder, "true"))[0] == Outcome(0)


async def test_a_terminal_has_a_size_and_hears_when_it_changes(folder: Path) -> None:
    async with job(folder) as executor:
        looks = "trap 'stty size; exit 0' WINCH; tty -s; stty size; echo $TERM; sleep 20 & wait"
        errand = Errand(("sh", "-c", looks), "vt220", Window(7, 31))
        async with executor.visit(folder, errand) as visit:
            found = b""
            while b"vt220" not in found:
                found += await read_some(visit.outputs[0], 100)
            assert found == b"7 31\r\nvt220\r\n"
            await visit.resize(Window(9, 40))
            outcome, outputs = await spoken(visit)
            assert (outcome, outputs) == (Outcome(0), [b"9 40\r\n"])


async def test_a_shell_on_a_terminal_keeps_the_jobs_variables(folder: Path, tmp_path: Path) -> None:
    async with job(folder) as executor:
        errand = Errand((), "dumb", Window())
        async with executor.visit(folder, errand) as visit:
            await write_all(visit.stdin, b"echo $((40+2)) $OVER; exit 6\n")
            outcome, outputs = await spoken(visit)
        assert outcome == Outcome(6) and f"42 {folder / WORK / 'over'}".encode() in outputs[0]


async def test_who_does_not_know_the_key_gets_nothing(folder: Path) -> None:
    async with job(folder) as executor:
        right = (folder / asking.KEY).read_bytes()
        assert (folder / asking.KEY).stat().st_mode & 0o77 == 0
        packets = (
            *(b"", b"\0" * 4000, Asked(["id"]).encode(bytes(32))),
            *(right, right + b"\0", right + b"vt220", right[:31] + b"x\0id"),
        )
        for packet in packets:
            with os.fdopen(os.open(os.devnull, os.O_RDWR)) as nothing:
                streams = [nothing.fileno()] * 3
                assert await asyncio.to_thread(answered, folder, packet, streams) == b""
        # Who knows it and gives no streams gets none either.
        packet = Asked(["id"]).encode(right)
        assert await asyncio.to_thread(answered, folder, packet, []) == b""
        assert (await does(executor, folder, "true"))[0] == Outcome(0)


def answered(folder: Path, packet: bytes, streams: list[int]) -> bytes:
    """What a job's shim says to a packet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hatch:
        hatch.settimeout(20)
        hatch.connect(str(folder / asking.HATCH))
        if packet:
            socket.send_fds(hatch, [packet], streams)
        else:
            hatch.shutdown(socket.SHUT_WR)
        return hatch.recv(100)


async def test_who_only_knocks_delays_nobody(folder: Path) -> None:
    async with job(folder) as executor:
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                hatch = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                hatch.connect(str(folder / asking.HATCH))
            assert (await does(executor, folder, "true"))[0] == Outcome(0)


async def test_what_cannot_be_a_command_is_refused(folder: Path) -> None:
    async with job(folder) as executor:
        for words in (("echo", "a\0b"), ("echo", "a" * asking.MOST_BYTES)):
            with pytest.raises(Invalid):
                await does(executor, folder, *words)


@pytest.mark.skipif(landlock.version() == 0, reason="the kernel of this machine has no Landlock")
async def test_a_command_beside_a_job_of_somebody_else_has_its_walls(
    folder: Path, tmp_path: Path
) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    (shut / "key").write_text("secret")
    spaces = "readlink /proc/self/ns/mnt; readlink /proc/self/ns/user"
    looks = f"{spaces}; grep -E 'NoNewPrivs|Cap(Eff|Bnd)' /proc/self/status"
    async with job(folder, f"{looks}; {WAITS}", hidden=(shut,)) as executor:
        outcome, _ = await does(executor, folder, "cat", str(shut / "key"))
        assert outcome.exit_code == 1
        _, (seen, _) = await does(executor, folder, "sh", "-c", looks)
        mount, _, effective, _, walled = seen.splitlines()
        assert written(folder)[0].splitlines()[:5] == seen.splitlines()
        assert (walled.split()[1], effective.split()[1].strip(b"0")) == (b"1", b"")
        assert why_no_masks() or mount != OWN_SPACE
