"""Jobs as processes: real shims, real jobs, the nasty ones too."""

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from psutil import process_iter

from dstack_agent.executor.port import Ended
from dstack_agent.executor.process import ProcessExecutor
from dstack_agent.logs.journal import JournalReader
from dstack_agent.servicers.pump import gap_reason
from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.machine import Gpu
from support.eventually import eventually
from support.launches import has_memory, has_vault, launch_of, spec_of, written
from support.processes import alive, run

PYTHON = sys.executable


@pytest.mark.parametrize("code", [0, 3, 255])
async def test_the_exit_code_is_the_job_s_own(folder: Path, code: int) -> None:
    ended = await run(folder, f"exit {code}")
    assert (ended.exit_code, ended.reason, bool(ended.cause)) == (code, "", code != 0)


async def test_a_job_killed_by_a_signal_exits_as_in_a_shell(folder: Path) -> None:
    ended = await run(folder, "kill -TERM $$")
    assert (ended.exit_code, ended.reason) == (143, "")
    assert "SIGTERM" in ended.cause


async def test_a_sigkill_of_unknown_origin_says_that_memory_may_be_why(folder: Path) -> None:
    ended = await run(folder, "kill -KILL $$")
    assert (ended.exit_code, ended.reason) == (137, "")
    assert "possibly out of memory" in ended.cause


async def test_a_missing_command_is_called_so(folder: Path) -> None:
    ended = await run(folder, "no-such-command-anywhere")
    assert (ended.exit_code, ended.reason) == (127, "command-not-found")


async def test_ten_megabytes_of_anything_arrive_byte_for_byte(folder: Path) -> None:
    both = "head -c 10000000 /dev/urandom | tee out; head -c 10000000 /dev/urandom | tee err >&2"
    ended = await run(folder, both)
    assert ended == Ended(0)
    work = folder / "work"
    assert written(folder) == ((work / "out").read_bytes(), (work / "err").read_bytes())
    assert (work / "out").stat().st_size == (work / "err").stat().st_size == 10_000_000


@pytest.mark.parametrize("both", ["", ">&2"])
async def test_a_log_stops_at_its_limit_and_the_job_goes_on(folder: Path, both: str) -> None:
    limit = 1_000_000
    executor = ProcessExecutor(log_bytes=limit)
    flood = f"head -c 3000000 /dev/urandom | tee flood {both}"
    spec = spec_of(flood, "echo late", "touch went-on")
    await executor.launch(launch_of(folder, spec))
    async with asyncio.timeout(30):
        ended = await executor.wait(folder)
    assert ended.exit_code == 0
    assert (folder / "work" / "went-on").exists()
    flooded = (folder / "work" / "flood").read_bytes()
    stdout, stderr = written(folder)
    kept = stderr if both else stdout
    assert 0.9 * limit < len(kept) < limit
    assert flooded.startswith(kept)
    assert (folder / "journal").stat().st_size < limit + 4096
    lost = 3_000_000 + len("late\n") - len(kept)
    assert ended.cause == f"Its log reached the limit: {lost:,} bytes were not kept."
    assert JournalReader(folder / "journal").lengths() == (
        (5, 3_000_000) if both else (3_000_005, 0)
    )
    assert f"{limit:,}" in gap_reason(folder)


async def test_a_limit_of_months_is_a_limit_as_any_other(folder: Path) -> None:
    ended = await run(folder, "sleep 0.1", max_duration_seconds=90 * 86_400.0)
    assert ended == Ended(0)


async def test_one_line_of_eight_megabytes_without_an_end_arrives(folder: Path) -> None:
    assert await run(folder, "head -c 8000000 /dev/zero | tr '\\0' x") == Ended(0)
    assert written(folder) == (b"x" * 8_000_000, b"")


async def test_bytes_that_are_no_text_arrive(folder: Path) -> None:
    assert await run(folder, r"printf '\377\376\000ok\200'") == Ended(0)
    assert written(folder) == (b"\xff\xfe\x00ok\x80", b"")


async def test_a_job_that_closes_its_streams_runs_on(folder: Path) -> None:
    ended = await run(folder, "echo before", "exec >&- 2>&-", "sleep 0.3", "touch late", "exit 5")
    assert ended.exit_code == 5
    assert written(folder) == (b"before\n", b"")
    assert (folder / "work" / "late").exists()


@pytest.mark.parametrize(
    "daemon",
    [
        "sleep 100 &",
        "(sleep 100 &)",
        "setsid sleep 100 & sleep 0.1",
        "(setsid sh -c 'sleep 100 & sleep 100' >/dev/null 2>&1 &) ; sleep 0.1",
        "env -i setsid nohup sleep 100.25 & sleep 0.1",
        f"{PYTHON} -c 'import os, time; os.fork() or (os.setsid(), os.fork() or time.sleep(100))'",
        "trap '' TERM HUP; sleep 100 &",
    ],
)
async def test_what_a_job_leaves_running_ends_with_it(folder: Path, daemon: str) -> None:
    began = time.monotonic()
    ended = await run(folder, daemon, "echo done")
    assert ended == Ended(0)
    assert written(folder)[0] == b"done\n"
    assert time.monotonic() - began < 5
    assert alive(folder) == set()
    assert not _running("sleep 100.25")


def _running(command: str) -> bool:
    return command in _arguments().splitlines()


def _arguments() -> str:
    """Arguments of every process of this machine."""
    return "\n".join(" ".join(each.info["cmdline"] or ()) for each in process_iter(["cmdline"]))


async def test_commands_share_one_shell_and_the_first_failure_ends_them(folder: Path) -> None:
    ended = await run(folder, "X=1; cd /", "echo $X $PWD", "false", "echo never")
    assert ended.exit_code == 1
    assert written(folder)[0] == b"1 /\n"


async def test_commands_longer_than_an_argument_run(folder: Path) -> None:
    ended = await run(folder, "echo " + "x" * 300_000)
    assert ended == Ended(0)
    assert len(written(folder)[0]) == 300_001


async def test_a_job_starts_in_its_working_directory(folder: Path) -> None:
    assert await run(folder, "pwd", working_dir="deep/er") == Ended(0)
    assert written(folder)[0].decode().strip() == str(folder / "work/deep/er")


async def test_a_job_sees_its_environment_and_secrets_and_nothing_of_the_agent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent-of-the-person")
    keep = 'printf %s "$TOKEN" > variable; cat "${DSTACK_SECRETS_DIR-.}/TOKEN" > file || rm file'
    spec = spec_of("env", keep, secret_names=("TOKEN",))
    launch = launch_of(folder, spec, secrets={"TOKEN": "s3cret\nvalue"})
    launch = replace(launch, env={**launch.env, "LR": "0.00002"})
    executor = ProcessExecutor()
    await executor.launch(launch)
    assert await executor.wait(folder) == Ended(0)
    seen = written(folder)[0].decode()
    assert "LR=0.00002\n" in seen
    assert "TOKEN=******\n*****\n" in seen
    assert (folder / "work" / "file").exists() is has_memory()
    for kept in ("variable", "file") if has_memory() else ("variable",):
        assert (folder / "work" / kept).read_text() == "s3cret\nvalue"
    assert not has_vault(folder)
    assert "SSH_AUTH_SOCK" not in seen


async def test_a_secret_is_in_no_file_and_no_argument(folder: Path) -> None:
    executor = ProcessExecutor()
    spec = spec_of("sleep 100", secret_names=("TOKEN",))
    launch = launch_of(folder, spec, secrets={"TOKEN": "canary-4711"})
    await executor.launch(launch)
    eventually(lambda: "sleep 100" in _arguments(), within=5)
    found = _files_with(folder, b"canary-4711")
    arguments = _arguments()
    await executor.stop(folder, abort=True)
    await executor.wait(folder)
    assert found == []
    assert "canary-4711" not in arguments


def _files_with(folder: Path, words: bytes) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if words in path.read_bytes()]


async def test_a_polite_stop_gives_the_whole_tree_the_grace(folder: Path) -> None:
    """The shell ends at once; what it started may still save what it has."""
    saving = "trap 'sleep 0.5; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    executor = ProcessExecutor()
    await executor.launch(launch_of(folder, spec_of(f'sh -c "{saving}"', "echo never")))
    eventually(lambda: b"ready" in written(folder)[0], within=5)
    await executor.stop(folder, abort=False)
    await executor.stop(folder, abort=False)
    ended = await executor.wait(folder)
    assert ended.reason == "stopped"
    assert written(folder)[0] == b"ready\nsaved\n"


async def test_a_job_that_ignores_a_stop_is_ended_after_the_grace(folder: Path) -> None:
    executor = ProcessExecutor()
    commands = ("trap '' TERM", "echo ready", "while :; do sleep 0.1; done")
    await executor.launch(launch_of(folder, spec_of(*commands, stop_grace_seconds=0.5)))
    eventually(lambda: written(folder)[0], within=5)
    began = time.monotonic()
    await executor.stop(folder, abort=False)
    ended = await executor.wait(folder)
    assert (ended.exit_code, ended.reason) == (137, "stopped")
    assert 0.4 < time.monotonic() - began < 2
    assert alive(folder) == set()


@pytest.mark.timed
async def test_an_abort_ends_it_at_once(folder: Path) -> None:
    executor = ProcessExecutor()
    await executor.launch(launch_of(folder, spec_of("trap '' TERM", "echo ready", "sleep 100")))
    eventually(lambda: written(folder)[0], within=5)
    began = time.monotonic()
    await executor.stop(folder, abort=True)
    ended = await executor.wait(folder)
    assert (ended.exit_code, ended.reason) == (137, "aborted")
    assert time.monotonic() - began < 1


async def test_an_abort_during_the_grace_of_a_stop_ends_it_at_once(folder: Path) -> None:
    executor = ProcessExecutor()
    commands = ("trap '' TERM", "echo ready", "while :; do sleep 0.1; done")
    await executor.launch(launch_of(folder, spec_of(*commands, stop_grace_seconds=60)))
    eventually(lambda: written(folder)[0], within=5)
    await executor.stop(folder, abort=False)
    await executor.stop(folder, abort=True)
    async with asyncio.timeout(5):
        ended = await executor.wait(folder)
    assert ended.reason == "aborted"


async def test_a_job_that_runs_too_long_is_ended(folder: Path) -> None:
    ended = await run(folder, "sleep 100", max_duration_seconds=0.3)
    assert (ended.exit_code, ended.reason) == (143, "time-limit")


async def test_stopping_a_job_that_ended_does_nothing(folder: Path) -> None:
    executor = ProcessExecutor()
    assert await run(folder, "exit 3") == await executor.wait(folder)
    await executor.stop(folder, abort=True)
    assert (await executor.wait(folder)).exit_code == 3


async def test_a_job_starts_once_only(folder: Path) -> None:
    executor = ProcessExecutor()
    launch = launch_of(folder, spec_of("echo once >> times"))
    await executor.launch(launch)
    await executor.wait(folder)
    with pytest.raises(Refused) as refused:
        await executor.launch(launch)
    assert "started before" in refused.value.why
    assert (folder / "work" / "times").read_text() == "once\n"


async def test_a_job_that_was_given_up_never_starts(folder: Path) -> None:
    executor = ProcessExecutor()
    launch = launch_of(folder, spec_of("touch started"))
    ended = await executor.wait(folder)
    assert (ended.exit_code, ended.reason) == (None, "shim-lost")
    with pytest.raises(Refused):
        await executor.launch(launch)
    assert not (folder / "work" / "started").exists()


async def test_a_card_is_given_to_one_job_only(folder: Path, tmp_path: Path) -> None:
    card = Gpu(f"GPU-{os.getpid()}", "Tesla V100", 16 << 30)
    executor = ProcessExecutor()
    await executor.launch(launch_of(folder, spec_of("sleep 100"), gpus=(card,)))
    other = launch_of(tmp_path / "other", spec_of("true"), gpus=(card,))
    with pytest.raises(Refused) as refused:
        await executor.launch(other)
    assert (refused.value.code, card.uuid in refused.value.why) == ("gpu-busy", True)
    await executor.stop(folder, abort=True)
    await executor.wait(folder)
    await executor.launch(other)
    assert await executor.wait(other.folder) == Ended(0)


async def test_a_nul_character_is_refused(folder: Path) -> None:
    launch = launch_of(folder, spec_of("echo"))
    with pytest.raises(Invalid):
        await ProcessExecutor().launch(replace(launch, env={"A": "b\0c"}))


@pytest.mark.timed
async def test_a_job_is_told_to_start_in_a_moment(folder: Path, tmp_path: Path) -> None:
    """A person waits for it: the target is 25 ms on an idle machine."""
    executor = ProcessExecutor()
    took: list[float] = []
    for turn in range(5):
        launch = launch_of(tmp_path / str(turn), spec_of("echo hi"))
        began = time.monotonic()
        await executor.launch(launch)
        took.append(time.monotonic() - began)
        await executor.wait(launch.folder)
    assert min(took) < 0.25


def test_a_shim_loads_nothing_that_takes_long() -> None:
    shown = (
        "import sys; sys.path.append(sys.argv[1]); "
        "import dstack_agent.executor.owning; print(*sys.modules)"
    )
    root = Path(__file__).parents[3] / "agent"
    ended = subprocess.run(
        (PYTHON, "-I", "-S", "-E", "-c", shown, str(root)),
        capture_output=True,
        text=True,
        check=True,
    )
    slow = {"pathlib", "typing", "dataclasses", "json", "socket", "asyncio", "subprocess"}
    assert slow & set(ended.stdout.split()) == set()
