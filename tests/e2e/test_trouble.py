"""Trouble as a person meets it: each time what happened, why, a fix, the right code, no traceback,
and nothing half-done."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psutil import pid_exists

from support.alone import agent_pid, alone
from support.eventually import eventually
from support.lab import DSTACK, RUNNER, Peer, invitation, make_peer, project, said
from support.meshes import Mesh
from support.person import as_person, give, persons_folder, without_rights

HELLO = "workflows:\n  - name: train\n    provider: bash\n    commands: [echo hi]\n"

USAGE, UNREACHABLE, INVALID, MISSING, FORBIDDEN, REFUSED, OURS = 2, 69, 64, 66, 77, 78, 125


def runner(
    peer: Peer, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs `dstack-runner …` to its end, which trouble makes come soon."""
    return subprocess.run(
        (*peer.prefix, *RUNNER, *arguments),
        cwd=cwd or peer.home,
        env=peer.environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=20,
        check=False,
    )


def told(ended: subprocess.CompletedProcess[bytes], code: int, *words: str) -> str:
    """What was said on standard error, checked to be fit for a person."""
    text = said(ended)
    assert ended.returncode == code, f"{ended.returncode}\n{text}"
    for word in words:
        assert word in text, text
    for never in ("Traceback", " bug", "E1120", ".cc:"):
        assert never not in text, text
    assert ended.stderr.strip()
    return text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("h"), DSTACK_MDNS="0") as peer:
        yield peer


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """A home that made a mesh; no agent runs in it."""
    peer = make_peer(tmp_path_factory.mktemp("m"), "founder", DSTACK_MDNS="0")
    peer.dstack("mesh", "create", "lab", check=True)
    return peer


def end_agent(peer: Peer) -> None:
    """Ends the agent that started by itself."""
    pid = agent_pid(peer)
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    # Its databases are closed, and their side files gone, only when the process has ended.
    eventually(lambda: not pid_exists(pid), within=10)


# Ports.


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


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "0h"])
def test_a_time_that_is_none_is_told(founder: Peer, since: str) -> None:
    ended = runner(founder, "audit", "--since", since)
    told(ended, INVALID, "bad-time", since, "fix: dstack-runner audit --since 2h")


def test_an_audit_log_that_nobody_wrote_is_empty_and_whole(tmp_path: Path) -> None:
    ended = runner(make_peer(tmp_path, "new"), "audit", "--json")
    assert ended.returncode == 0
    shape = json.loads(ended.stdout)
    assert (shape["schema"], shape["items"], shape["head"]) == ("dstack.audit/v1", [], None)


@pytest.mark.parametrize("seeds", ["ws-1", "ws-1:99999", "http://ws-1:7420"])
def test_wrong_seeds_are_told_with_where_they_were_written(founder: Peer, seeds: str) -> None:
    peer = Peer("founder", founder.home, env={**founder.env, "DSTACK_SEEDS": seeds})
    started = runner(peer, "start", "--listen", "127.0.0.1:0")
    for ended, code in ((started, USAGE), (peer.dstack("agents"), INVALID)):
        told(ended, code, "bad-address", seeds, "DSTACK_SEEDS", "fix: ", "HOST:PORT")
    flag = runner(founder, "start", "--listen", "127.0.0.1:0", "--seed", seeds)
    told(flag, USAGE, seeds, "--seed")


def test_seeds_that_nobody_answers_at_leave_nobody_to_run_on(founder: Peer) -> None:
    peer = Peer("founder", founder.home, env={**founder.env, "DSTACK_SEEDS": "127.0.0.1:1"})
    told(peer.dstack("run", "bash", "-c", "true", "--remote"), OURS, "no-agents", "fix: ")


# Rights.


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


# The disk.


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


# The clock and the invitation.


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


def join(peer: Peer, code: str, address: str) -> subprocess.CompletedProcess[bytes]:
    return peer.dstack("mesh", "join", code, address, "--yes")


def slipped(code: str) -> str:
    """The code with a slip in its secret part."""
    return code[:-1] + ("7" if code[-1] != "7" else "8")


def test_wrong_codes_are_told_and_the_right_one_still_works_once(
    founder: Peer, tmp_path: Path
) -> None:
    one, two = (make_peer(tmp_path, name, DSTACK_MDNS="0") for name in ("one", "two"))
    with invitation(founder, "runner") as (code, addresses):
        address = addresses[0]
        told(join(one, "7K3V-Q2MX-9T4B-HC6D", address), INVALID, "bad-invite-code", "fix: ")
        told(join(one, code, "127.0.0.1:1"), UNREACHABLE, "127.0.0.1:1", "Connect call", "fix: ")
        told(join(one, code, "nonsense"), INVALID, "bad-address", "HOST:PORT")
        told(join(one, slipped(code), address), FORBIDDEN, "fix: ")
        told(runner(one, "join", slipped(code), address, "--yes"), FORBIDDEN, "fix: ")
        assert not (one.home / "keys" / "membership.json").exists()
        told(join(founder, code, address), REFUSED, "already-a-member", '"lab"', "fix: ")
        assert join(one, code, address).returncode == 0
    told(join(two, code, address), UNREACHABLE, "used or have expired", "fix: ")
    assert not (two.home / "keys" / "membership.json").exists()


def test_a_member_of_a_mesh_joins_and_makes_no_other(founder: Peer, tmp_path: Path) -> None:
    other = make_peer(tmp_path, "other", DSTACK_MDNS="0")
    other.dstack("mesh", "create", "theirs", check=True)
    again = other.dstack("mesh", "create", "more")
    told(again, REFUSED, "already-a-member", '"theirs"', "fix: ")
    newcomer = make_peer(tmp_path, "newcomer", DSTACK_MDNS="0")
    with invitation(founder, "runner") as (code, addresses):
        told(join(other, code, addresses[0]), REFUSED, "already-a-member", '"theirs"', "fix: ")
        assert join(newcomer, code, addresses[0]).returncode == 0
    assert newcomer.dstack("mesh", "invite").returncode != 0


def test_an_expired_invitation_is_told(founder: Peer, tmp_path: Path) -> None:
    late = make_peer(tmp_path, "late", DSTACK_MDNS="0")
    inviting = founder.dstack("mesh", "invite", "--minutes", "0.05", "--json")
    offered = json.loads(inviting.stdout.splitlines()[0])
    told(
        join(late, offered["code"], offered["addresses"][0]),
        UNREACHABLE,
        "used or have expired",
        "ask for a new invitation",
    )


# Programs that are not there.


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


def test_a_missing_git_is_told(home: Peer, tmp_path: Path) -> None:
    code = project(tmp_path / "code", HELLO)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "env"):
        (programs / name).symlink_to(str(shutil.which(name)))
    peer = Peer("home", home.home, env={**home.env, "PATH": str(programs)})
    told(peer.dstack("run", "train", cwd=code), OURS, "no-git", "apt-get install git")
    assert b"git is not on PATH" in peer.dstack("doctor").stdout


def test_a_folder_that_is_no_repository_runs(home: Peer, tmp_path: Path) -> None:
    for name, first in (("plain", ()), ("empty", ("git", "init", "-q"))):
        (tmp_path / name / ".dstack").mkdir(parents=True)
        (tmp_path / name / ".dstack" / "workflows.yaml").write_text(HELLO)
        if first:
            subprocess.run(first, cwd=tmp_path / name, check=True)
        assert home.dstack("run", "train", cwd=tmp_path / name, check=True).stdout == b"hi\n"


# Workflow files that are none.


def test_without_workflows_the_first_step_is_named(home: Peer, tmp_path: Path) -> None:
    ended = home.dstack("run", "train", cwd=tmp_path)
    told(ended, USAGE, 'no workflow or provider "train"', "dstack init", "Nothing was sent")


def test_an_unknown_workflow_gets_a_suggestion(home: Peer, tmp_path: Path) -> None:
    code = project(tmp_path / "code", HELLO)
    told(home.dstack("run", "tarin", cwd=code), USAGE, '"tarin"', 'did you mean "train"?')


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("folder", "1:1: This is not a file."),
        ("pipe", "1:1: This is not a file."),
        ("dangling", "1:1: The file cannot be read: No such file"),
        ("noise", "is not UTF-8"),
        ("binary", "delete it"),
        ("utf-16", "save the file as UTF-8"),
        ("deep", "write it flatter"),
    ],
)
def test_what_is_no_workflow_file_is_told_with_its_name(
    home: Peer, tmp_path: Path, kind: str, says: str
) -> None:
    path = tmp_path / ".dstack" / "workflows.yaml"
    path.parent.mkdir()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nowhere")
        case "noise":
            path.write_bytes(b"\xb3" * 5000)
        case "binary":
            path.write_bytes(b"\x7fELF\0\0\0\0" * 5000)
        case "utf-16":
            path.write_bytes(HELLO.encode("utf-16"))
        case _:
            path.write_bytes(b"a: " + b"[" * 100_000)
    for ended in (home.dstack("run", "train", cwd=tmp_path), home.dstack("validate", cwd=tmp_path)):
        text = told(ended, USAGE, ".dstack/workflows.yaml:1:", says, "fix: ")
        assert len(text) < 1000, "a long line is shown whole"


def test_a_workflow_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / ".dstack" / "workflows.yaml"
    path.parent.mkdir()
    path.write_text(HELLO)
    path.chmod(0)
    give(path)
    peer = make_peer(tmp_path, "p", without_rights())
    ended = peer.dstack("validate", cwd=tmp_path)
    told(ended, USAGE, "workflows.yaml:1:1", "Permission denied", "fix: chmod u+r .dstack/")


# Names, and agents that go away.


def test_runs_that_nobody_knows_are_told_by_every_verb(home: Peer) -> None:
    for words, code in (
        (("logs", "nobody"), OURS),
        (("wait", "nobody"), OURS),
        (("attach", "nobody"), OURS),
        (("logs", "@99"), OURS),
        (("stop", "nobody"), MISSING),
        (("ps", "nobody"), MISSING),
        (("ls", "nobody"), MISSING),
        (("ls", ":nobody"), MISSING),
        (("cp", "nobody", "x", "y"), MISSING),
    ):
        told(home.dstack(*words), code, words[1].lstrip(":"), "fix: ")


def test_a_prefix_that_several_runs_have_is_told_with_them(home: Peer) -> None:
    known: list[str] = []
    shared = ""
    while not shared:  # there are fewer first letters than runs that this takes
        assert len(known) < 40
        ended = home.dstack("run", "bash", "-c", "true", "-dq", check=True)
        name = ended.stdout.decode().strip()
        shared = name[0] if any(other[0] == name[0] for other in known) else ""
        known.append(name)
    text = told(home.dstack("logs", shared), USAGE, f"'{shared}'")
    assert sum(name in text for name in known) >= 2, text
    for name in known:
        assert home.dstack("wait", name).returncode == 0


def test_a_home_whose_path_is_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "x" * 110, DSTACK_NAME="long")
    for ended, code in (
        (peer.dstack("run", "bash", "-c", "true"), OURS),
        (runner(peer, "start", "--private"), REFUSED),
    ):
        told(ended, code, "path-too-long", "107", "fix: ", "DSTACK_HOME")


def test_a_folder_that_was_removed_under_us_is_told(home: Peer, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = ("sh", "-c", 'rmdir "$0" && exec "$@"', str(gone), *DSTACK, "run", "train")
    ended = subprocess.run(command, cwd=gone, env=home.environment, capture_output=True)
    told(ended, OURS, "The current folder does not exist", "fix: cd ")


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
