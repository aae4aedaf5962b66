"""Jobs on another machine, entered with the person's own ssh."""

import contextlib
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dstack_agent.executor.masking import why_no_masks
from support.eventually import eventually
from support.going_on import going_on
from support.holding import files_holding
from support.lab import Peer, join_mesh, make_peer, project, said
from support.person import give, persons_folder
from support.ssh_machine import free_port
from support.ssh_person import as_person_with_account, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

WORKFLOWS = """
workflows:
  - name: dev
    provider: ssh
    code: true
    env: ["GREETING=a 'b'"]
    setup: [export LATER=yes, cd sub]
    artifacts: [kept]
  - name: beside
    provider: bash
    ssh: true
    commands: [touch here, "true & wait", "while [ ! -e go ]; do sleep 0.05; done"]
"""


@dataclass(frozen=True)
class Lab:
    """An agent, and a laptop whose runs it takes."""

    station: Peer
    laptop: Peer
    code: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("ssh")
    listens = f"127.0.0.1:{free_port()}"
    env = {"DSTACK_MDNS": "0", "DSTACK_SEEDS": listens}
    with persons_folder() as theirs:
        within = as_person_with_account(theirs)
        station = make_peer(theirs, "station", within, HOME=str(theirs), **env)
        give(station.home)
        laptop = make_peer(folder, "laptop", (), **env)
        join_mesh(station, laptop, role="submitter")
        code = project(folder / "code", WORKFLOWS, sub__a_DOT_txt="hello")
        with station.runner("--listen", listens):
            yield Lab(station, laptop, code)


@dataclass
class Entered:
    """A command that leads into a run, and what it printed."""

    process: "subprocess.Popen[bytes]"
    out: Path

    @property
    def said(self) -> str:
        return self.out.read_text()

    @property
    def run(self) -> str:
        return self.said.split()[0]

    @property
    def command(self) -> list[str]:
        """As it is to be typed."""
        eventually(lambda: re.search(r"^ssh: .+$", self.said, re.MULTILINE), within=20)
        return shlex.split(re.findall(r"^ssh: (.+)$", self.said, re.MULTILINE)[0])

    @property
    def name(self) -> str:
        return self.command[-1]

    @property
    def folder(self) -> Path:
        return Path(self.command[2]).parent

    def does(self, *words: str, given: bytes = b"") -> bytes:
        """What a command of a session prints; nobody is there to answer a prompt."""
        return self.runs(*self.command, *words, given=given)

    def runs(self, *command: str, given: bytes = b"") -> bytes:
        ended = subprocess.run(
            command,
            input=given,
            capture_output=True,
            timeout=30,
            check=False,
            start_new_session=True,
        )
        assert ended.returncode == 0, said(ended)
        assert b"Warning" not in ended.stderr and b"denied" not in ended.stderr, said(ended)
        return ended.stdout


@contextlib.contextmanager
def entered(peer: Peer, code: Path, *words: str) -> Generator[Entered]:
    with going_on(peer, code, *words) as (process, out):
        yield Entered(process, out)


@pytest.fixture(scope="module")
def dev(lab: Lab) -> Iterator[Entered]:
    with entered(lab.laptop, lab.code, "run", "dev", "--remote") as running:
        assert running.command
        yield running


def test_a_session_is_the_jobs(dev: Entered, lab: Lab) -> None:
    shown = dev.does('printf "%s|%s|%s|%s" "$GREETING" "$LATER" "$PWD" "$VIRTUAL_ENV"').decode()
    greeting, later, folder, environment = shown.split("|")
    assert (greeting, later) == ("a 'b'", "yes")
    assert folder.startswith(str(lab.station.home / "jobs")) and folder.endswith("/work/sub")
    assert dev.does("which", "python").decode().strip() == f"{environment}/bin/python"
    assert dev.does(given=b"cat a.txt; echo from a pipe\n") == b"hellofrom a pipe\n"
    assert b"TTY=/dev/pts" in dev.does("-tt", given=b"echo TTY=$(tty)\nexit\n")
    # It is behind the walls of a job of somebody else, as its commands are.
    home = dev.does("echo", "$HOME").decode().strip()
    assert home == folder.replace("/work/sub", "/home")
    key = str(lab.station.home / "keys" / "key.pem")
    shut = subprocess.run((*dev.command, "cat", key), capture_output=True, check=False)
    refused = b"denied" if why_no_masks() else b"No such file"
    assert shut.returncode != 0 and refused in shut.stderr, said(shut)


def test_files_go_both_ways(dev: Entered, tmp_path: Path) -> None:
    config, name = dev.command[2], dev.name
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(bytes(range(256)) * 8192)
    dev.runs("scp", "-q", "-F", config, str(sent), f"{name}:big")
    assert dev.does("wc", "-c", "<", "big").split()[0] == b"2097152"
    dev.runs("sftp", "-q", "-F", config, "-b", "-", name, given=f"get big {back}\n".encode())
    assert back.read_bytes() == sent.read_bytes()
    if shutil.which("rsync"):
        rsync = ("rsync", "-a", "-e", f"ssh -F {shlex.quote(config)}")
        dev.runs(*rsync, f"{sent.parent}/", f"{name}:tree")
        assert dev.does("ls", "tree") == b"back\nsent\n"


def test_an_editor_gets_a_link_and_the_line_that_it_needs(dev: Entered) -> None:
    folder = dev.does("cd ..; pwd").decode().strip()
    assert f"code: vscode://vscode-remote/ssh-remote+{dev.name}{folder}\n" in dev.said
    assert f'~/.ssh/config:  Include "{dev.folder.parent}/*/config"\n' in dev.said


def test_another_key_and_another_server_are_refused(dev: Entered, tmp_path: Path) -> None:
    for name, file, reason in (
        ("IdentityFile", tmp_path / "key", b"Permission denied (publickey)"),
        ("UserKnownHostsFile", tmp_path / "known", b"Host key verification failed"),
    ):
        subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file), check=True)
        if name == "UserKnownHostsFile":
            file.write_text(f"{dev.name} {file.with_suffix('.pub').read_text()}")
        config = tmp_path / "config"
        lines = (dev.folder / "config").read_text().splitlines()
        lines = [f"  {name} {file}" if name in line else line for line in lines]
        config.write_text("\n".join(lines) + "\n")
        ended = subprocess.run(
            ("ssh", "-F", config, dev.name, "true"), capture_output=True, check=False, timeout=20
        )
        assert ended.returncode == 255 and reason in ended.stderr, said(ended)


def test_a_key_is_where_it_is_needed_and_in_no_record(dev: Entered, lab: Lab) -> None:
    ours = (dev.folder / "key").read_bytes().splitlines()[2]
    (theirs,) = (lab.station.home / "jobs").glob("*/ssh/host_key")
    for secret, place in (
        (ours, dev.folder / "key"),
        (theirs.read_bytes().splitlines()[2], theirs),
    ):
        homes = (lab.laptop.home, lab.station.home)
        assert [path for home in homes for path in files_holding(home, secret)] == [place]
        assert place.stat().st_mode & 0o077 == 0


def test_a_second_terminal_has_a_way_of_its_own(dev: Entered, lab: Lab) -> None:
    with entered(lab.laptop, lab.code, "app", dev.run, "--no-open") as second:
        assert second.name == f"{dev.run}.2"
        assert second.does("cat", "a.txt") == dev.does("cat", "a.txt") == b"hello"
    assert not second.folder.exists() and dev.folder.exists()


def test_the_last_command_ends_the_session(lab: Lab) -> None:
    with entered(lab.laptop, lab.code, "run", "beside", "--remote") as running:
        session = subprocess.Popen(
            (*running.command, "echo in; sleep 600"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with session:
            assert session.stdout is not None and session.stdout.readline() == b"in\n"
            folder = running.folder
            assert running.does("ls") == b"here\nsub\n"
            running.does("touch", "go")
            assert session.wait(20) == 255
        assert running.process.wait(20) == 0, running.said
        assert not folder.exists()


def test_a_stop_ends_the_session_and_leaves_nothing(dev: Entered, lab: Lab) -> None:
    """The last test of this job."""
    dev.does("mkdir -p ../kept; echo 1 >../kept/x")
    folder = dev.folder
    with subprocess.Popen((*dev.command, "-tt"), stdin=-1, stdout=-1, stderr=-1) as session:
        assert session.stdout is not None and session.stdout.read(1)
        began = time.monotonic()
        lab.laptop.dstack("stop", dev.run, cwd=lab.code, check=True)
        assert session.wait(20) == 255
        dev.process.wait(20)
        assert time.monotonic() - began < 8, "an interactive shell does not use up the grace"
    assert not folder.exists()
    mine = str(lab.station.home)
    left = [one.cmdline() for one in psutil.process_iter() if one.name() == "sshd"]
    assert not any(mine in " ".join(words) for words in left)
    assert "x" in lab.laptop.dstack("ls", "-r", dev.run, cwd=lab.code, check=True).stdout.decode()
