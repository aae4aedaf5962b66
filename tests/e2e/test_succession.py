"""A private agent that a command started gives way to the agent of a mesh; its jobs go on."""

import json
import os
import signal
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from dstack_agent.executor.record import start_time
from dstack_agent.succession import ask_to_leave
from dstack_cli import embedded
from dstack_mesh.home import Home
from support.eventually import eventually
from support.lab import RUNNER, Peer, invitation, make_peer, project

MESH = ("--listen", "127.0.0.1:0", "--no-mdns")
WORKFLOWS = """workflows:
  - name: long
    provider: bash
    commands: [echo began, until test -e "$GO"; do sleep 0.05; done, echo ended]
"""


@pytest.fixture
def laptop(tmp_path: Path) -> Peer:
    return make_peer(tmp_path, "laptop")


def test_a_job_of_a_private_agent_goes_on_under_the_agent_of_a_mesh(
    laptop: Peer, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    text = WORKFLOWS.replace("$GO", str(go))
    folder = project(tmp_path / "project", text)
    name = laptop.dstack("run", "-d", "-q", "long", cwd=folder, check=True).stdout.decode().strip()
    private = int((laptop.home / "run" / "private.pid").read_text().split()[0])
    laptop.dstack("mesh", "create", "lab", check=True)

    with laptop.runner(*MESH) as runner:
        assert start_time(private) == 0
        assert runner.pid != private
        assert not (laptop.home / "run" / "private.pid").exists()
        go.touch()
        logs = laptop.dstack("logs", name, "--follow", cwd=folder, check=True)
        assert logs.stdout == b"began\nended\n"


def test_who_only_has_a_private_agent_can_invite(laptop: Peer, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", WORKFLOWS.replace("$GO", "/"))
    laptop.dstack("run", "long", cwd=folder, check=True)
    laptop.dstack("mesh", "create", "lab", check=True)
    guest = make_peer(tmp_path, "guest")
    with invitation(laptop, "runner") as (code, addresses):
        joined = guest.dstack("mesh", "join", code, addresses[0], "--yes", "--json", check=True)
    assert json.loads(joined.stdout)["mesh"] == "lab"


def test_an_agent_that_starts_too_late_is_ended_and_takes_no_home_over(
    laptop: Peer, tmp_path: Path
) -> None:
    folder = project(tmp_path / "project", WORKFLOWS.replace("$GO", "/"))
    home = Home(laptop.home)
    late = embedded.start(home)
    os.kill(late.process.pid, signal.SIGSTOP)
    laptop.dstack("run", "long", cwd=folder, check=True)
    embedded.wait_until_ready(home, late)
    embedded.retire(home)
    os.kill(late.process.pid, signal.SIGCONT)
    try:
        assert late.process.wait(timeout=10) == -signal.SIGTERM
        assert not embedded.answers(home)
    finally:
        late.process.kill()


def test_a_process_that_only_has_the_pid_of_a_private_agent_is_left_alone(tmp_path: Path) -> None:
    said = tmp_path / "private.pid"
    said.write_text(f"{os.getpid()} {start_time(os.getpid()) + 1}")
    assert not ask_to_leave(said)
    assert not ask_to_leave(tmp_path / "nothing")


def test_an_agent_of_a_mesh_does_not_give_way(laptop: Peer) -> None:
    laptop.dstack("mesh", "create", "lab", check=True)
    with laptop.runner(*MESH) as first:
        second = laptop.popen((*RUNNER, "start", *MESH), stderr=PIPE, stdout=PIPE, stdin=DEVNULL)
        _, errors = second.communicate(timeout=20)
        assert second.returncode == 78
        assert b"already runs in this home" in errors
        assert eventually(lambda: start_time(first.pid) != 0, 1)
