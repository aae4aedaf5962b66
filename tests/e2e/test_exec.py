"""`dstack exec` as a person types it, at the private agent of a home."""

import os
import pty
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.alone import agent_pid, alone
from support.eventually import eventually
from support.lab import DSTACK, Peer, project, said

WAITS = "echo started; export LATER=1; while [ ! -e over ]; do sleep 0.05; done; exit 5"
MARK = "6871423"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("exec")) as peer:
        yield peer


@pytest.fixture(scope="module")
def code(home: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a project of which one run goes on."""
    folder = project(tmp_path_factory.mktemp("code"), "workflows: []\n", sub__a_DOT_txt="hello")
    home.dstack("run", "bash", "-d", "-q", "-c", WAITS, cwd=folder, check=True)
    eventually(lambda: b"started" in home.dstack("logs", "@", cwd=folder).stdout, within=20)
    yield folder
    home.dstack("stop", "@", "-x", cwd=folder)


def exec_(
    home: Peer, code: Path, *words: str, given: bytes | None = None
) -> "subprocess.CompletedProcess[bytes]":
    started = home.popen(
        (*DSTACK, "exec", *words),
        cwd=code,
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = started.communicate(given, timeout=30)
    return subprocess.CompletedProcess(words, started.returncode, out, err)


def test_bytes_streams_and_exit_code_are_the_commands(home: Peer, code: Path) -> None:
    given = os.urandom(1 << 20)
    look = 'cat; cat sub/a.txt >&2; test "$DSTACK_JOB_ID" && exit 7'
    ran = exec_(home, code, "@", "--", "sh", "-c", look, given=given)
    assert (ran.returncode, ran.stdout == given, ran.stderr) == (7, True, b"hello"), said(ran)


def test_what_is_wrong_is_told(home: Peer, code: Path) -> None:
    for words, exit_code, told in (
        (("@", "--", "no-such-program"), 127, b"no-such-program cannot be started"),
        (("@", "--job", "3", "--", "id"), 125, b"has no job 3"),
        (("nobody-1", "--", "id"), 125, b"There is no run 'nobody-1'"),
        (("@", "-t", "--", "id"), 2, b"-t gives the command this terminal"),
    ):
        ran = exec_(home, code, *words)
        assert ran.returncode == exit_code and told in ran.stderr, said(ran)
        assert ran.stdout == b""


def test_who_reads_no_more_ends_it(home: Peer, code: Path) -> None:
    started = home.popen(
        (*DSTACK, "exec", "@", "--", "yes"),
        cwd=code,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert started.stdout is not None
    assert started.stdout.read(4) == b"y\ny\n"
    started.stdout.close()
    assert started.wait(20) == 141


def of_the_job() -> list[int]:
    """Processes that a command of these tests started there."""
    found = (one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"])
    return [one.pid for one in found if one.info["cmdline"] == ["sleep", MARK]]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_line_leaves_nothing(by: signal.Signals, home: Peer, code: Path) -> None:
    leaves = f"(setsid sleep {MARK} &); trap '' TERM; sleep {MARK}"
    started = home.popen(
        (*DSTACK, "exec", "@", "--", "sh", "-c", leaves), cwd=code, stdin=subprocess.DEVNULL
    )
    eventually(lambda: len(of_the_job()) == 2, within=20)
    started.send_signal(by)
    assert started.wait(20) == (143 if by is signal.SIGTERM else -signal.SIGKILL)
    eventually(lambda: not of_the_job(), within=20)


def test_an_agent_that_is_killed_takes_it_along_and_the_job_goes_on(home: Peer, code: Path) -> None:
    started = home.popen(
        (*DSTACK, "exec", "@", "sleep", MARK),
        cwd=code,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: of_the_job(), within=20)
    agent = agent_pid(home)
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    _, err = started.communicate(timeout=20)
    assert started.returncode == 125 and b"went away, and the command with it" in err
    eventually(lambda: not of_the_job(), within=20)
    assert exec_(home, code, "@", "echo", "again").stdout == b"again\n"


def test_ctrl_c_is_the_commands_to_obey(home: Peer, code: Path) -> None:
    obeys = "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"
    started = home.popen(
        (*DSTACK, "exec", "@", "--", "sh", "-c", obeys),
        cwd=code,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n"
        started.send_signal(signal.SIGINT)
        assert started.wait(20) == 9


def test_a_shell_has_a_terminal_and_the_one_here_is_as_before(home: Peer, code: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (11, 77))
    before = termios.tcgetattr(theirs)
    started = home.popen((*DSTACK, "exec"), cwd=code, stdin=theirs, stdout=theirs, stderr=theirs)
    seen = b""
    os.write(ours, b"echo $((40+2)); stty size; exit 6\n")
    while b"11 77" not in seen:
        seen += os.read(ours, 4096)
    assert started.wait(20) == 6 and b"42" in seen
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_the_job_knows_nothing_of_it_and_takes_it_along(home: Peer, code: Path) -> None:
    ran = exec_(home, code, "@", "--", "sh", "-c", "echo loud; touch over; sleep 100")
    assert ran.returncode == 137 and b"the job is over" in ran.stderr, said(ran)
    assert home.dstack("wait", "@", cwd=code).returncode == 5
    assert home.dstack("logs", "@", cwd=code).stdout == b"started\n"
    late = exec_(home, code, "@", "--", "id")
    assert late.returncode == 125 and b"does not run any more" in late.stderr, said(late)
