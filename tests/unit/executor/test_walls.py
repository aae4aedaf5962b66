"""What a process of somebody else gets at, and what it does not."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_agent.executor import landlock
from dstack_agent.executor.environment import VIRTUAL_ENVIRONMENT
from dstack_agent.executor.masking import why_no_masks
from dstack_agent.executor.port import Ended, Launch
from dstack_agent.executor.process import ProcessExecutor
from dstack_agent.executor.vault import OF_ROOT
from dstack_agent.executor.walls import outside, walls_of
from dstack_mesh.home import Home
from dstack_mesh.wire.server import listen_local, make_server
from support.every_method import Recorder
from support.launches import PATH, launch_of, spec_of, written

TREE = {
    "/": ("/home", "/tmp", "/usr"),
    "/home": ("/home/ana", "/home/ben"),
    "/home/ana": ("/home/ana/.ssh", "/home/ana/agent", "/home/ana/data"),
    "/home/ana/agent": ("/home/ana/agent/jobs", "/home/ana/agent/keys"),
}

TESTS = Path(__file__).parents[2]

MASKED = [False, *([True] if not why_no_masks() else [])]
"""What holds by the walls alone, and by the masks where a machine has them."""

needs_landlock = pytest.mark.skipif(
    landlock.version() == 0, reason="the kernel of this machine has no Landlock"
)


def names(folder: Path) -> list[Path]:
    return [Path(name) for name in TREE.get(str(folder), ())]


def test_all_but_what_is_hidden_is_open_in_as_few_parts_as_there_can_be() -> None:
    job = Path("/home/ana/agent/jobs/1")
    walls = walls_of((Path("/home/ana"),), job, Path(sys.executable), "", names)
    own = [str(job / name) for name in ("work", "tmp", VIRTUAL_ENVIRONMENT, "home")]
    assert list(walls.writable) == ["/home/ben", "/tmp", "/usr", *own]
    assert str(Path(sys.prefix).resolve()) in walls.readable
    assert str(job / "commands.sh") in walls.readable


def test_a_user_whose_home_is_the_root_hides_no_more_than_the_agent() -> None:
    hidden = (Path("/"), Path("/home/ana/agent"))
    walls = walls_of(hidden, Path("/j"), Path(sys.executable), "", names)
    assert walls.writable[:5] == ("/home/ana/.ssh", "/home/ana/data", "/home/ben", "/tmp", "/usr")


def test_nothing_that_may_be_read_has_a_hidden_folder_inside() -> None:
    prefix = Path(sys.prefix).resolve()
    walls = walls_of((prefix / "keys",), Path("/j"), Path(sys.executable), "/vault", names)
    assert str(prefix) not in walls.readable
    assert "/vault" in walls.readable


def test_vaults_of_other_jobs_are_hidden() -> None:
    tree = {"/": ("/dev", "/run"), "/run": (OF_ROOT, "/run/docker", "/run/lock", "/run/user")}
    vault = f"{OF_ROOT}/own/files"
    walls = walls_of(
        (), Path("/j"), Path(sys.executable), vault, lambda top: map(Path, tree.get(str(top), ()))
    )
    assert walls.writable[:3] == ("/dev", "/run/lock", "/j/work")
    assert OF_ROOT not in walls.readable
    assert vault in walls.readable


def test_folders_that_a_job_sees_nothing_of_are_not_searched_for_commands() -> None:
    own = str(Path(sys.prefix).resolve() / "bin")
    search = os.pathsep.join(("/usr/bin", "/home/ana/.local/bin", own))
    kept = outside(search, (Path("/home/ana"), Path(own).parent.parent), Path(sys.executable))
    assert kept == os.pathsep.join(("/usr/bin", own))


class Person:
    """A person with an agent: her home with a key of hers, the agent's home with its own."""

    def __init__(self, root: Path) -> None:
        self.home = root / "ana"
        self.agent = root / "ana" / "share" / "dstack"
        self.ssh = self.home / ".ssh" / "id_ed25519"
        self.key = self.agent / "keys" / "key.pem"
        self.other = self.agent / "jobs" / "02run.0.1" / "work" / "data"
        for secret in (self.ssh, self.key, self.other):
            secret.parent.mkdir(parents=True)
            secret.write_text("canary")

    def launch(self, *commands: str, own: bool = False) -> Launch:
        folder = self.agent / "jobs" / "01run.0.1"
        search = os.pathsep.join((str(folder / VIRTUAL_ENVIRONMENT / "bin"), PATH))
        env = {"PATH": search, "TMPDIR": str(folder / "tmp")}
        hidden = () if own else (self.agent, self.home)
        return launch_of(folder, spec_of(*commands), env=env, hidden=hidden)

    async def run(
        self, *commands: str, own: bool = False, masked: bool | None = None
    ) -> tuple[Ended, str, str]:
        launch = self.launch(*commands, own=own)
        executor = ProcessExecutor(masked=masked)
        await executor.launch(launch)
        ended = await executor.wait(launch.folder)
        stdout, stderr = written(launch.folder)
        return ended, stdout.decode(), stderr.decode()


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


@needs_landlock
@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("what", ["ssh", "key", "other"])
async def test_a_job_of_somebody_else_reads_no_key_and_no_other_job(
    person: Person, what: str, masked: bool
) -> None:
    path = getattr(person, what)
    ended, stdout, stderr = await person.run(f"cat {path}", masked=masked)
    assert (ended.exit_code, stdout) == (1, "")
    assert ("No such file" if masked else "Permission denied") in stderr


@pytest.mark.parametrize("what", ["ssh", "key", "other"])
async def test_a_job_of_the_person_s_own_reads_what_the_person_may(
    person: Person, what: str
) -> None:
    """The negative control of the test above; and what docs/security.md says of one's own jobs."""
    path = getattr(person, what)
    assert (await person.run(f"cat {path}", own=True))[1] == "canary"


@needs_landlock
@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize(
    "attempt",
    [
        "echo evil >> {ssh}",
        "echo evil > {home}/.bashrc",
        "mkdir {home}/.config",
        "ln -s /tmp/evil {home}/.profile",
        "rm {key}",
        "mv {key} .",
        "ln {key} linked && cat linked",
        "echo '{{}}' > ../exit.json",
        "truncate -s 0 ../journal",
        "cat /proc/$AGENT/root{key}",
        "kill -0 $AGENT",
        "python -c \"open('{key}')\"",
    ],
)
async def test_nothing_beyond_the_walls_is_changed_or_signalled(
    person: Person, attempt: str, masked: bool
) -> None:
    spelled = attempt.format(ssh=person.ssh, home=person.home, key=person.key)
    ended, _, _ = await person.run(f"AGENT={os.getpid()}", spelled, masked=masked)
    assert ended.exit_code not in (0, None)
    assert [secret.read_text() for secret in (person.ssh, person.key)] == ["canary", "canary"]
    assert sorted(each.name for each in person.home.iterdir()) == [".ssh", "share"]


@needs_landlock
async def test_a_working_directory_that_leads_beyond_the_walls_is_not_made(person: Person) -> None:
    launch = person.launch("true")
    launch = replace(launch, spec=replace(launch.spec, working_dir="out/made/here"))
    (launch.work / "out").symlink_to(person.home)
    executor = ProcessExecutor()
    await executor.launch(launch)
    assert (await executor.wait(launch.folder)).exit_code == 126
    assert sorted(each.name for each in person.home.iterdir()) == [".ssh", "share"]


CALL = """
import asyncio, sys
from pathlib import Path
from dstack_mesh.home import Home
from dstack_mesh.wire.channels import Channels
from support.every_method import call

async def ask():
    home = Home(Path(sys.argv[1]))
    channels = Channels(home)
    print((await call(channels.to_local(home.agent_socket), sys.argv[2])).outcome)
    await channels.close()

asyncio.run(ask())
"""


@needs_landlock
@pytest.mark.parametrize(
    ("own", "outcomes"), [(False, ["no-right", "no-right", "passed"]), (True, ["passed"] * 3)]
)
async def test_a_job_of_somebody_else_is_not_the_owner_on_her_socket(
    person: Person, own: bool, outcomes: list[str]
) -> None:
    """A job of her own is the negative control, and what docs/security.md says of it.

    Masks hide the socket; here it is reached.
    """
    home, recorder, server = Home(person.agent), Recorder(), make_server()
    home.prepare()
    recorder.add_to(server)
    listener = listen_local(server, home.agent_socket)
    await server.start()
    script = person.home.parent / "call.py"
    script.write_text(f"import sys\nsys.path[:0] = {[str(TESTS), *sys.path]}\n{CALL}")
    methods = ("dstack_mesh.v1.AuctionService/Commit", "dstack_mesh.v1.OwnerService/Pause")
    asked = [f"/{method}" for method in (*methods, "grpc.health.v1.Health/Check")]
    lines = [f"{sys.executable} {script} {home.root} {method}" for method in asked]
    try:
        ended, stdout, stderr = await person.run(*lines, own=own, masked=False)
    finally:
        await server.stop(0)
        listener.close()
    assert (ended, stdout.split()) == (Ended(0), outcomes), stderr


@needs_landlock
async def test_within_the_walls_a_job_works_as_ever(person: Person) -> None:
    ended, stdout, stderr = await person.run(
        "mkdir -p ~/.cache/x && echo kept > ~/.cache/x/y && cat ~/.cache/x/y",
        'echo a > "$TMPDIR"/b; echo b > file; ln -s file link; mv file moved; cat moved',
        "python -c 'import json, ssl; print(json.dumps(1))'; cat /etc/hostname >/dev/null",
        "sleep 0.1 & wait; grep -c NoNewPrivs:.1 /proc/self/status",
        "umask; ulimit -c; ulimit -Hc",
    )
    assert ended == Ended(0), stderr
    assert stdout.split() == ["kept", "b", "1", "1", "0077", "0", "0"]
    assert (person.agent / "jobs/01run.0.1/home/.cache/x/y").exists()


@needs_landlock
@pytest.mark.skipif(os.getuid() != 0, reason="only root has capabilities to lose")
async def test_root_keeps_no_capability_within_the_walls(person: Person) -> None:
    _, stdout, _ = await person.run("grep -E 'Cap(Eff|Prm|Bnd)' /proc/self/status")
    assert {line.split()[1] for line in stdout.splitlines()} == {"0" * 16}


def test_where_the_kernel_has_no_landlock_a_job_starts_all_the_same() -> None:
    """Told as the level of isolation; `restrict` then only takes new rights away."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from dstack_agent.executor import landlock\n"
        "landlock.version = lambda: 0\n"
        "landlock.restrict([], [])\n"
        "print(open('/etc/hostname').read() and 'read')\n"
    )
    sources = Path(landlock.__file__).parents[2]
    ran = subprocess.run((sys.executable, "-c", script, str(sources)), capture_output=True)
    assert ran.stdout == b"read\n", ran.stderr
