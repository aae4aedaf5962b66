"""Which sockets of the machine a process of somebody else reaches, and which of its own.

Where the tests run as root there is another user too, as whom the system's Python does the same.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack_agent.environments.installing import Installer, install
from dstack_agent.executor import landlock, masks
from dstack_agent.executor.masking import why_no_masks
from dstack_agent.executor.walls import walls_of

SYSTEM_PYTHON = Path("/usr/bin/python3")
ANOTHER = 61234
SOURCES = Path(masks.__file__).parents[2]

WALLED = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from dstack_agent.executor import landlock, masks
told = json.loads(sys.argv[2])
os.chdir(told["cwd"])
if told["masks"] is not None:
    masks.put_up(told["masks"], told["writable"] + told["readable"])
    landlock.restrict(told["writable"], told["readable"])
print("up", flush=True)
sys.stdin.readline()
os.chdir(told["cwd"])
exec(compile(told["code"], "job", "exec"))
"""

KNOCK = """
import socket
for path in {paths!r}:
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(path)
            print("in")
        except OSError as error:
            print("out")
"""

needs_masks = pytest.mark.skipif(
    bool(why_no_masks()) or landlock.version() < 6, reason=why_no_masks() or "an older kernel"
)


def as_another() -> tuple[str, ...]:
    """The words before a command that run it as a user without any right."""
    words = ("setpriv", "--reuid", str(ANOTHER), "--regid", str(ANOTHER), "--clear-groups", "--")
    if os.getuid() or not shutil.which("setpriv") or not SYSTEM_PYTHON.exists():
        return ()
    return words if tried(words).returncode == 0 else ()


def tried(words: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
    command = (*words, str(SYSTEM_PYTHON), "-I", "-S", "-E", masks.__file__)
    return subprocess.run(command, capture_output=True, check=False)


USERS = [(), *([as_another()] if as_another() else [])]


class Machine:
    """Folders of a person, outside of /tmp, and a job of somebody else among them."""

    def __init__(self, root: Path, user: tuple[str, ...]) -> None:
        self.root, self.user = root, user
        self.home, self.runtime = root / "ana", root / "runtime"
        self.agent = self.home / "share" / "dstack"
        self.job = self.agent / "jobs" / "01run.0.1"
        for folder in (
            self.runtime,
            *(self.job / name for name in ("work", "tmp", "venv", "home")),
        ):
            folder.mkdir(parents=True)
        self.python = SYSTEM_PYTHON if user else Path(sys.executable)
        if user:
            for each in (root, *root.rglob("*")):
                os.chown(each, ANOTHER, ANOTHER)

    def start(
        self, code: str, walled: bool = True, python: Path | None = None
    ) -> subprocess.Popen[str]:
        """A job that waits for a line before it runs some code; its walls are for a Python."""
        hidden = (self.agent, self.home)
        walls = walls_of(hidden, self.job, python or self.python, "", masked=True)
        told = {
            "cwd": str(self.job / "work"),
            "masks": list(walls.masks) if walled else None,
            "writable": list(walls.writable),
            "readable": list(walls.readable),
            "code": code,
        }
        command = (*self.user, str(self.python), "-I", "-c", WALLED, str(SOURCES), json.dumps(told))
        return subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)

    @contextmanager
    def listening(self, path: Path | str) -> Generator[None]:
        """A socket of the person's that anybody of the machine may connect to."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(8)
            if isinstance(path, Path):
                path.chmod(0o777)
                if self.user:
                    os.chown(path, ANOTHER, ANOTHER)
            yield


def answer(job: subprocess.Popen[str]) -> str:
    """What a job says in the end."""
    stdout, stderr = job.communicate("\n", timeout=30)
    assert job.returncode == 0, stderr
    return stdout.removeprefix("up\n").strip()


@pytest.fixture(params=USERS, ids=["as-it-is", "as-another-user"][: len(USERS)])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="dstack-", dir=_beyond_tmp()) as root:
        made = Machine(Path(root), request.param)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(made.runtime))
        yield made


def _beyond_tmp() -> str:
    return "/var/lib" if os.getuid() == 0 else str(Path.home())


def up(job: subprocess.Popen[str]) -> None:
    assert job.stdout is not None
    said = job.stdout.readline()
    assert said == "up\n", job.communicate()[1]


@needs_masks
@pytest.mark.parametrize("walled", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_job_of_somebody_else_reaches_no_socket_of_the_person(
    machine: Machine, when: str, walled: bool
) -> None:
    """A job without walls, as the person's own are, is the negative control."""
    with tempfile.TemporaryDirectory(prefix="tmux-", dir="/tmp") as shared:
        Path(shared).chmod(0o777)
        agent = Path(shared) / "default"
        places = [machine.runtime / "bus", machine.home / "agent.sock", agent, "\0dstack-" + shared]
        paths = [str(path) for path in places]
        paths.append("../../../../../agent.sock")  # from where the job stands
        with _all(machine, places if when == "before" else []):
            job = machine.start(KNOCK.format(paths=paths), walled)
            up(job)
            with _all(machine, places if when == "after" else []):
                assert answer(job).split() == (["out"] if walled else ["in"]) * len(paths)


@contextmanager
def _all(machine: Machine, places: list[Path | str]) -> Generator[None]:
    if not places:
        yield
        return
    with machine.listening(places[0]), _all(machine, places[1:]):
        yield


@needs_masks
@pytest.mark.parametrize("walled", [True, False])
async def test_an_installer_of_somebody_else_reaches_no_socket_of_the_person(
    machine: Machine, walled: bool
) -> None:
    path, log = machine.runtime / "bus", machine.job / "install.log"
    code = KNOCK.format(paths=[str(path)])
    walls = walls_of((machine.home,), machine.job, Path(sys.executable), "", masked=True)
    argv = (sys.executable, "-c", code)
    installer = Installer(argv, machine.job / "work", {}, walls if walled else None)
    with machine.listening(path):
        await install(installer, log, lambda _: None)
    assert log.read_text().strip() == ("out" if walled else "in")


AMONG_ITSELF = """
import array, os, socket, tempfile
from multiprocessing import get_context

def accept(listener, given):
    with listener, listener.accept()[0] as came:
        _, (head, *_), *_ = came.recvmsg(1, 64)
        given.send(os.read(array.array("i", head[2])[0], 10))

def main():
    context = get_context("fork")
    for name in (os.path.join(os.environ["T"], "s"), "/tmp/s2", "\\0own"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(name)
        listener.listen()
        here, there = context.Pipe()
        child = context.Process(target=accept, args=(listener, there))
        child.start()
        reader, writer = os.pipe()
        os.write(writer, b"passed")
        with socket.socket(socket.AF_UNIX) as knock:
            knock.connect(name)
            sent = array.array("i", [reader])
            knock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
        print(here.recv().decode())
        child.join()
    with context.Manager() as manager:
        shared = manager.dict()
        child = context.Process(target=shared.update, args=({1: "managed"},))
        child.start()
        child.join()
        print(shared[1])
    print(os.path.exists("/tmp/s2"), os.listdir("/tmp") == os.listdir(os.environ["T"]))

os.environ["T"] = tempfile.tempdir = os.path.abspath("../tmp")
main()
"""


@needs_masks
def test_processes_of_a_job_reach_each_other(machine: Machine) -> None:
    told = answer(machine.start(AMONG_ITSELF)).split()
    assert told == ["passed", "passed", "passed", "managed", "True", "True"]


ESCAPES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
home, status = {home!r}, open("/proc/self/status").read()
caps = [line.split()[1] for line in status.splitlines() if line.startswith("Cap")]
print(set(caps) == {{"0" * 16}})
def tries():
    yield libc.umount2(home.encode(), 2)
    yield libc.mount(b"none", home.encode(), b"tmpfs", 0, None)
    yield libc.syscall(428, -100, b"/", 1)  # a copy of the file system without what lies over it
    yield libc.syscall(428, -100, b"/var", 1)
print({{each >= 0 for each in tries()}}, flush=True)
pid = os.fork()
if not pid:
    libc.unshare(0x10020000)  # namespaces of its own, where it may do everything
    print({{each >= 0 for each in tries()}}, os.path.exists(home + "/canary"), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
try:
    open(home + "/x", "w")
except OSError as error:
    print(error.errno in (2, 13, 30))
"""


@needs_masks
def test_masks_stay_up_whatever_a_job_tries(machine: Machine) -> None:
    (machine.home / "canary").write_text("canary")
    told = answer(machine.start(ESCAPES.format(home=str(machine.home)))).splitlines()
    assert told == ["True", "{False}", "{False} False", "True"]


@needs_masks
def test_links_by_which_an_interpreter_is_named_are_there(machine: Machine) -> None:
    """As uv lays its Pythons, in the home of the person."""
    real = machine.home / "pythons" / "3.11.7"
    (real / "bin").mkdir(parents=True)
    (real / "bin" / "python3").write_text("seen")
    (machine.home / "pythons" / "3.11").symlink_to("3.11.7")
    (machine.home / "notes").touch()
    named = machine.home / "pythons" / "3.11" / "bin" / "python3"
    code = f"import os; print(open({str(named)!r}).read(), *os.listdir({str(machine.home)!r}))"
    told = answer(machine.start(code, python=named)).split()
    assert (told[0], sorted(told[1:])) == ("seen", ["pythons", "share"])


@needs_masks
def test_a_home_that_a_link_leads_to_is_as_good(machine: Machine) -> None:
    """As /home is one on some systems, and an agent's folder in another one."""
    (machine.root / "home").symlink_to("ana")
    (machine.home / "mesh").symlink_to("share/dstack")
    inside = Path("jobs/01run.0.1")
    for agent in (machine.root / "home" / "share" / "dstack", machine.home / "mesh"):
        machine.agent, machine.job = agent, agent / inside
        code = "import os; open('made', 'w').close(); print(os.getcwd(), os.listdir('../..'))"
        there = machine.home / "share" / "dstack" / inside / "work"
        assert answer(machine.start(code)) == f"{there} ['01run.0.1']"


@needs_masks
def test_where_agents_lie_in_tmp_sockets_of_before_are_covered(tmp_path: Path) -> None:
    """As the homes of these tests do; files beside them stay."""
    if not str(tmp_path).startswith("/tmp/"):
        pytest.skip("temporary folders lie elsewhere here")
    machine = Machine(tmp_path / "m", ())
    (tmp_path / "beside").write_text("seen")
    path = tmp_path / "s"
    code = f"{KNOCK.format(paths=[str(path)])}\nprint(open({str(tmp_path / 'beside')!r}).read())"
    with machine.listening(path):
        assert answer(machine.start(code)).split() == ["out", "seen"]
        assert answer(machine.start(code, walled=False)).split() == ["in", "seen"]
