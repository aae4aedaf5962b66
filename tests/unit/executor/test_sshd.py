"""The SSH server of a process job: real sshd, real ssh, a real shim."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from dstack_agent.executor.free_ports import free_ports
from dstack_agent.executor.listening import listeners
from dstack_agent.executor.process import ProcessExecutor
from dstack_agent.executor.sshd import why_no_sshd
from dstack_mesh.ssh_keys import person_keys, server_keys
from dstack_mesh.user import user_name
from dstack_scheduler.providers.sshd import app_of, beside, foreground
from support.eventually import eventually, eventually_async
from support.launches import launch_of, shim_pid, spec_of, written

TOKEN = "7" * 32
NEEDS = "ssh" if shutil.which("ssh") is None else why_no_sshd()
real = pytest.mark.skipif(bool(NEEDS), reason=f"this needs ssh and sshd: {NEEDS}")


class Entered:
    """A job that is entered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports((0,))
        self.executor = ProcessExecutor()
        self.files = folder.parent / "person"

    async def launch(self, *commands: str, **changes: object) -> None:
        spec = spec_of(*commands, apps=(app_of(),), ports=(0,), **changes)
        env = {"PATH": os.environ["PATH"], "OF_THE_JOB": "a 'b'\nc", "HOME": str(self.folder)}
        launch = launch_of(self.folder, spec, env=env, ports=(self.port,), ssh=TOKEN)
        await self.executor.launch(launch)
        self.files.mkdir(mode=0o700)
        (self.files / "key").touch(mode=0o600)
        (self.files / "key").write_text(person_keys(TOKEN).private)
        (self.files / "known_hosts").write_text(f"job {server_keys(TOKEN).public}\n")

        async def listens() -> bool:
            return (await self.executor.spots(self.folder, (self.port,)))[0] is not None

        await eventually_async(listens, within=10)

    def ssh(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            (
                *("ssh", "-F", "none", "-i", self.files / "key", "-o", "BatchMode=yes"),
                *("-o", f"UserKnownHostsFile={self.files}/known_hosts", "-o", "HostKeyAlias=job"),
                *("-o", "IdentitiesOnly=yes", "-p", str(self.port)),
                *(f"{user_name()}@127.0.0.1", *command),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def processes(self) -> list[psutil.Process]:
        """All of it: the server, its sessions, what these started."""
        return psutil.Process(shim_pid(self.folder)).children(recursive=True)


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(map(_goes_on, processes))


def _goes_on(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def job(tmp_path: Path) -> Entered:
    return Entered(tmp_path / "01run.0.1")


def said(process: "subprocess.Popen[bytes]", given: bytes = b"") -> bytes:
    out, err = process.communicate(given, timeout=20)
    assert process.returncode == 0, err
    return out


@real
async def test_a_session_begins_with_what_the_server_was_started_with(job: Entered) -> None:
    await job.launch("export LATER=yes", "mkdir sub && cd sub", foreground())
    shown = said(job.ssh('printf "%s|%s|%s" "$OF_THE_JOB" "$LATER" "$PWD"'))
    assert shown.decode() == f"a 'b'\nc|yes|{job.folder}/work/sub"
    assert said(job.ssh(), b"echo read $LATER\n") == b"read yes\n"
    # Her own settings for all shells do not go over the job's, and a terminal is one.
    (job.folder / ".bashrc").write_text(
        "export OF_THE_JOB=mine PATH=/nowhere\nalias greet='echo'\n"
    )
    typed = b'greet "<$OF_THE_JOB>" $(test -t 0 && echo tty)\nexit\n'
    assert b"<a 'b'\r\nc> tty" in said(job.ssh("-tt"), typed)
    was = job.processes()
    await job.executor.stop(job.folder, abort=False)
    ended = await job.executor.wait(job.folder)
    assert ended.reason == "stopped" and are_gone(was)


@real
async def test_beside_other_commands_it_is_no_child_of_theirs(job: Entered) -> None:
    await job.launch(beside(), "true & wait; while [ ! -e go ]; do sleep 0.05; done; echo done")
    session = job.ssh("echo in; sleep 600")
    assert session.stdout is not None and session.stdout.readline() == b"in\n"
    was = job.processes()
    (job.folder / "work" / "go").touch()
    ended = await job.executor.wait(job.folder)
    assert (ended.exit_code, written(job.folder)[0]) == (0, b"done\n")
    assert session.wait(10) == 255 and are_gone(was)
    session.communicate()


@real
async def test_a_limit_of_time_ends_sessions_at_once(tmp_path: Path) -> None:
    for limit in (1.5, 6.0, 24.0):  # on a busy machine nobody may be in yet when the first is up
        job = Entered(tmp_path / f"{limit}" / "01run.0.1")
        await job.launch(foreground(), max_duration_seconds=limit, stop_grace_seconds=30.0)
        sessions = [job.ssh("-tt", "echo in; exec bash -i"), job.ssh("echo in; sleep 600")]
        began = [each.stdout and each.stdout.readline().strip() for each in sessions]
        was = job.processes() if began == [b"in", b"in"] else []
        ended = await job.executor.wait(job.folder)
        assert ended.reason == "time-limit"
        assert [each.wait(10) for each in sessions] == [255, 255] and are_gone(was)
        for each in sessions:
            each.communicate()
        if was:
            break
    else:
        pytest.fail("nobody was ever in")


@real
async def test_when_its_shim_is_killed_nothing_of_it_stays(job: Entered) -> None:
    await job.launch(foreground())
    session = job.ssh("echo in; setsid sleep 600 & sleep 600")
    assert session.stdout is not None and session.stdout.readline() == b"in\n"
    was = job.processes()
    assert [process.name() for process in was].count("sshd") >= 2, "the server and its session"
    os.kill(shim_pid(job.folder), signal.SIGKILL)
    ended = await job.executor.wait(job.folder)
    assert ended.reason == "shim-lost" and session.wait(10) == 255
    eventually(lambda: are_gone(was), within=5)
    session.communicate()


@real
async def test_only_the_one_key_and_no_password_is_let_in(job: Entered) -> None:
    await job.launch(foreground())
    (job.files / "key").write_text(person_keys("8" * 32).private)
    refused = job.ssh("true")
    told = refused.communicate(timeout=20)[1]
    assert refused.returncode == 255 and b"(publickey)" in told, told
    assert {each.host for each in listeners() if each.port == job.port} == {"127.0.0.1"}
    await job.executor.stop(job.folder, abort=True)
    await job.executor.wait(job.folder)


def test_a_machine_without_a_server_says_so(tmp_path: Path) -> None:
    assert "sshd, is not installed" in why_no_sshd(search=str(tmp_path))
