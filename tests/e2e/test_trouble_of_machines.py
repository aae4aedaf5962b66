"""Ports, homes, disks, clocks and agents that are in the way of a person."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.alone import agent_pid, alone
from support.eventually import eventually
from support.lab import DSTACK, Peer, make_peer, project
from support.meshes import Mesh
from support.person import as_person, give, persons_folder
from support.trouble import FORBIDDEN, HELLO, OURS, REFUSED, UNREACHABLE, end_agent, runner, told


def test_a_taken_port_is_named_with_who_to_ask(founder: Peer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = runner(founder, "start", "--listen", address)
        text = told(ended, REFUSED, "port-taken", address, "Address already in use", "fix: ", "ss ")
        assert len(text.strip().splitlines()) == 3
        told_by_check = runner(founder, "check", "--listen", address)
        assert told_by_check.returncode == 1
        assert address.encode() in told_by_check.stdout


def test_a_forbidden_port_and_a_strange_address_are_named(founder: Peer) -> None:
    ended = runner(founder, "start", "--listen", "192.0.2.77:0")
    told(ended, REFUSED, "no-such-address", "192.0.2.77", "fix: ")
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 1:
        return  # this kernel lets everybody have every port
    with persons_folder() as folder:
        person = make_peer(folder, "p", as_person(), DSTACK_MDNS="0")
        give(folder)
        person.dstack("mesh", "create", "lab", check=True)
        ended = runner(person, "start", "--listen", f"127.0.0.1:{first - 1}")
        told(ended, REFUSED, "port-forbidden", "Permission denied", "fix: ", "above 1023")


def test_a_second_agent_of_a_home_is_refused(founder: Peer) -> None:
    with founder.runner("--listen", "127.0.0.1:0"):
        for flags in (("--listen", "127.0.0.1:0"), ("--private",)):
            told(runner(founder, "start", *flags), REFUSED, "already-running", "agent.sock", "fix:")
    told(runner(founder, "status"), UNREACHABLE, "not-running", "fix: dstack-runner start")


def test_a_home_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    with persons_folder() as folder:
        person = make_peer(folder, "p", as_person(), DSTACK_MDNS="0")
        person.home.chmod(0o555)
        work = folder / "w"
        work.mkdir()
        home = str(person.home)
        for words, code in (
            (("run", "bash", "-c", "true"), OURS),
            (("ps",), FORBIDDEN),
            (("mesh", "create", "lab"), FORBIDDEN),
        ):
            told(person.dstack(*words, cwd=work), code, "Permission denied", home, "DSTACK_HOME")
        told(runner(person, "start", "--private", cwd=work), FORBIDDEN, home, "fix: ")
        assert list(person.home.iterdir()) == []


# Of the chunks either the pack or the index is met first; both name the place.
@pytest.mark.parametrize(("part", "says"), [("chunks", "fix: "), ("jobs", "Permission denied")])
def test_a_part_of_the_home_that_may_not_be_written_is_named(part: str, says: str) -> None:
    with persons_folder() as folder, alone(folder, DSTACK_MDNS="0") as person:
        person.prefix = as_person()
        code = project(folder / "code", HELLO)
        give(folder)
        person.dstack("run", "train", cwd=code, check=True)
        end_agent(person)
        (code / "new").write_text("1")
        locked = [person.home / part, *(person.home / part).rglob("*")]
        for path in locked:
            path.chmod(0o500 if path.is_dir() else 0o400)
        told(person.dstack("run", "train", cwd=code), OURS, says, f"{person.home}/{part}")
        for path in locked:
            path.chmod(0o700 if path.is_dir() else 0o600)
        person.dstack("run", "train", cwd=code, check=True)


def test_a_project_that_may_only_be_read_runs(home: Peer) -> None:
    with persons_folder() as folder, alone(folder, DSTACK_MDNS="0") as person:
        person.prefix = as_person()
        code = project(folder / "code", HELLO)
        give(folder)
        for path in (code, *code.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        assert person.dstack("run", "train", cwd=code, check=True).stdout == b"hi\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that holds what a job's reserve asks for, and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    command = ("mount", "-t", "tmpfs", "-o", "size=1400m,mode=700", "tmpfs", str(folder))
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(("umount", "-l", str(folder)), check=True)


def _takes(descriptor: int, size: int) -> bool:
    """Whether that much could be taken; others may have written since it was measured."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        return False
    return True


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes what is free but for some bytes."""
    file = disk / "fill"
    with file.open("wb") as taking:
        eventually(lambda: _takes(taking.fileno(), shutil.disk_usage(disk).free - leave), within=5)
    return file


def test_a_full_disk_is_told_at_submission_and_nothing_is_left(
    small_disk: Path, tmp_path: Path
) -> None:
    code = project(tmp_path / "code", HELLO)
    with alone(small_disk, DSTACK_MDNS="0") as peer:
        assert peer.dstack("run", "train", cwd=code, check=True).stdout == b"hi\n"
        (code / "blob").write_bytes(os.urandom(3_000_000))
        filled = fill(small_disk)
        told(peer.dstack("run", "train", cwd=code), OURS, str(small_disk), "fix: ", "larger disk")
        assert len(peer.json("ps", "-a")["items"]) == 1
        filled.unlink()
        assert peer.dstack("run", "train", cwd=code, check=True).stdout == b"hi\n"


def test_a_home_on_a_full_disk_is_told(small_disk: Path, tmp_path: Path) -> None:
    peer = make_peer(small_disk, "p", DSTACK_MDNS="0")
    fill(small_disk)
    told(peer.dstack("mesh", "create", "lab"), 75, "No space left", "fix: ")
    told(runner(peer, "start", "--private"), 75, "fix: ", "larger disk")


GROWS = """
workflows:
  - name: loud
    provider: bash
    commands:
      - echo up; touch {folder}/loud
      - while [ ! -e {folder}/full ]; do sleep 0.05; done
      - head -c 30000000 /dev/urandom | base64
  - name: saves
    provider: bash
    commands:
      - echo up; head -c 5000000 /dev/urandom > out/x; touch {folder}/saves
      - while [ ! -e {folder}/full ]; do sleep 0.05; done
    artifacts: [out]
"""


@pytest.mark.parametrize(
    ("workflow", "code", "reason"), [("loud", OURS, "disk-full"), ("saves", 0, "")]
)
def test_a_disk_that_fills_while_a_job_runs_is_told_and_the_job_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, workflow: str, code: int, reason: str
) -> None:
    root = project(tmp_path / "code", GROWS.format(folder=tmp_path))
    with alone(small_disk, DSTACK_MDNS="0") as peer, contextlib.ExitStack() as stack:
        seen = stack.enter_context((tmp_path / "seen").open("w+b"))
        running = peer.popen(
            (*DSTACK, "run", workflow), cwd=root, stdout=subprocess.DEVNULL, stderr=seen
        )
        stack.callback(running.wait)
        stack.callback(running.kill)
        eventually((tmp_path / workflow).exists, within=20)
        filled = fill(small_disk)
        (tmp_path / "full").touch()
        words = "The agent cannot write to its disk"
        eventually(lambda: words in (tmp_path / "seen").read_text(), within=20)
        assert running.poll() is None
        filled.unlink()
        assert running.wait(timeout=30) == code, (tmp_path / "seen").read_text()
        assert "Traceback" not in (peer.home / "state" / "agent.log").read_text()
        ended = json.loads(peer.dstack("wait", "@", "--json").stdout)
        assert (ended["exit_code"], ended["reason"]) == (code, reason)
        if workflow == "saves":
            [item] = peer.json("ls", "@", "-r")["items"]
            assert (item["path"], item["size"]) == ("out/x", 5_000_000)


@pytest.mark.parametrize(
    ("born", "code"),
    [(-timedelta(days=3), "certificate-expired"), (timedelta(days=3), "certificate-not-yet-valid")],
)
def test_a_clock_that_is_off_is_told_with_both_times(
    tmp_path: Path, born: timedelta, code: str
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    mesh.admit(tmp_path / "m", datetime.now(UTC) + born)
    peer = Peer("m", tmp_path / "m", env={"DSTACK_MDNS": "0"})
    now = f"{datetime.now(UTC):%Y-%m-%d}"
    for ended, exit_code in (
        (runner(peer, "start", "--listen", "127.0.0.1:0"), REFUSED),
        (peer.dstack("agents"), REFUSED),
        (peer.dstack("run", "bash", "-c", "true"), OURS),
    ):
        told(ended, exit_code, code, "this machine's clock says", now, "fix: ")
    checked = peer.dstack("doctor")
    assert checked.returncode == 1
    assert b"FAIL" in checked.stdout and b"this machine's clock says" in checked.stdout
    assert not list((tmp_path / "m").glob("jobs/*"))


def test_docker_that_does_not_run_is_told_with_its_socket(home: Peer, tmp_path: Path) -> None:
    image = "workflows:\n  - name: train\n    image: python:3.11\n    commands: [echo hi]\n"
    code = project(tmp_path / "code", image)
    with alone(tmp_path, DSTACK_MDNS="0", DOCKER_HOST=f"unix://{tmp_path}/no.sock") as peer:
        ended = peer.dstack("run", "train", cwd=code)
        told(ended, OURS, "No agent can run train", f"{tmp_path}/no.sock: No such file", "fix: ")
        as_json = peer.dstack("run", "train", "--json", cwd=code)
        assert json.loads(as_json.stdout)["error"]["code"] == "no-agent-fits"
        assert peer.json("ps", "-a")["items"] == []


def test_a_docker_that_the_person_may_not_use_is_told(tmp_path: Path) -> None:
    image = "workflows:\n  - name: train\n    image: python:3.11\n    commands: [echo hi]\n"
    if os.getuid() != 0:
        pytest.skip("only root can make a socket that the person may not open")
    with persons_folder() as folder, socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(folder / "docker.sock"))
        engine.listen()
        (folder / "docker.sock").chmod(0o600)
        code = project(folder / "code", image)
        with alone(folder, DSTACK_MDNS="0", DOCKER_HOST=f"unix://{folder}/docker.sock") as peer:
            peer.prefix = as_person()
            give(peer.home)
            give(code)
            ended = peer.dstack("run", "train", cwd=code)
        told(ended, OURS, "docker.sock: Permission denied", "usermod -aG docker")


def test_a_home_whose_path_is_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "x" * 110, DSTACK_NAME="long")
    for ended, code in (
        (peer.dstack("run", "bash", "-c", "true"), OURS),
        (runner(peer, "start", "--private"), REFUSED),
    ):
        told(ended, code, "path-too-long", "107", "fix: ", "DSTACK_HOME")


def test_a_user_without_a_name_or_a_home_works_or_is_told(tmp_path: Path) -> None:
    """As in a container that is run with a number for its user."""
    with persons_folder() as folder, alone(folder, DSTACK_MDNS="0") as person:
        person.prefix = ("env", "-u", "HOME", "-u", "USER", *as_person())
        give(folder)
        ended = person.dstack("run", "bash", "-c", "id -u; echo $HOME", check=True)
        assert ended.stdout.split()[0].decode() == str(folder.stat().st_uid)
        if os.getuid() == 0:
            person.prefix = ("env", "-u", "HOME", "-u", "DSTACK_HOME", *as_person())
            told(person.dstack("ps", cwd=folder), REFUSED, "HOME is not set", "set DSTACK_HOME")


def test_an_agent_killed_while_we_are_attached_comes_back_and_nothing_is_lost(
    home: Peer, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    command = f"echo one; while [ ! -e {go} ]; do sleep 0.05; done; echo two; exit 4"
    running = home.popen(
        (*DSTACK, "run", "bash", "-c", command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"one\n"
    pid = agent_pid(home)
    assert pid is not None
    os.kill(pid, 9)
    go.touch()
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (4, b"two\n"), err
    assert b"Traceback" not in err
    assert agent_pid(home) not in (None, pid)
