"""A Docker engine for tests: the one that answers here, or one of our own that is stopped again.

No registry is asked: images are made here. The Python image takes a minute the first time and is
kept in /var/tmp for later runs.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstack_agent.inventory.docker_socket import docker_answers, docker_socket
from support.eventually import eventually

BUSYBOX = "dstack-lab/busybox:1"
PYTHON = "dstack-lab/python:bookworm"
_PYTHON_TAR = Path("/var/tmp/dstack-lab-python.tar")
_APPLETS = (
    *("sh", "cat", "chmod", "dd", "echo", "env", "false", "head", "id", "ls", "mkdir", "printf"),
    *("ps", "sed", "seq", "setsid", "sleep", "sort", "tail", "tee", "touch", "true", "wc", "yes"),
)


@dataclass(frozen=True, slots=True)
class DockerLab:
    """An engine that answers."""

    socket: Path

    @property
    def host(self) -> str:
        """For `DOCKER_HOST`."""
        return f"unix://{self.socket}"

    def docker(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Runs Docker's own command against the engine."""
        return subprocess.run(
            ("docker", *command),
            env=os.environ | {"DOCKER_HOST": self.host},
            capture_output=True,
            check=check,
        )

    def has(self, image: str) -> bool:
        """Whether the engine has an image."""
        return self.docker("image", "inspect", image, check=False).returncode == 0

    def containers(self, label: str) -> list[str]:
        """Ids of containers with a label, running or not."""
        listed = self.docker("ps", "-aq", "--no-trunc", "--filter", f"label={label}")
        return listed.stdout.decode().split()


@contextmanager
def docker_engine() -> Generator[DockerLab]:
    """An engine; a skip with the reason where none answers and none can be started."""
    found = docker_socket()
    if found is not None and docker_answers(found):
        yield DockerLab(found)
        return
    missing = [name for name in ("dockerd", "docker") if shutil.which(name) is None]
    if os.getuid() != 0 or missing:
        pytest.skip(f"no Docker engine answers, and none can be started: {missing or 'not root'}")
    with tempfile.TemporaryDirectory(prefix="dstack-docker-", ignore_cleanup_errors=True) as root:
        engine = _start(Path(root))
        try:
            yield DockerLab(Path(root) / "docker.sock")
        finally:
            _stop(engine, Path(root))


@pytest.fixture(scope="session")
def docker_lab() -> Iterator[DockerLab]:
    """The same, for all tests of a session."""
    with docker_engine() as lab:
        yield lab


@pytest.fixture(scope="session")
def busybox(docker_lab: DockerLab) -> str:
    """An image with a small shell and no bash."""
    if not docker_lab.has(BUSYBOX):
        _import_busybox(docker_lab)
    return BUSYBOX


@pytest.fixture(scope="session")
def python_image(docker_lab: DockerLab) -> str:
    """An image with bash, Python 3.11 and git."""
    return import_python(docker_lab)


def import_python(lab: DockerLab) -> str:
    """Brings the image with bash, Python 3.11 and git to an engine; its name."""
    if not lab.has(PYTHON):
        if not _PYTHON_TAR.exists():
            _make_python_tar()
        lab.docker("import", str(_PYTHON_TAR), PYTHON)
    return PYTHON


def _start(root: Path) -> subprocess.Popen[bytes]:
    """An engine below a folder: with a bridge, or without where the kernel allows none."""
    for flags in ((), ("--iptables=false",), ("--iptables=false", "--bridge=none")):
        engine = _popen(root, flags)
        try:
            eventually(lambda engine=engine: _ready(root, engine), within=60, every=0.1)
        except AssertionError:
            _stop(engine, root)
        else:
            return engine
    pytest.skip(f"dockerd does not start: {(root / 'log').read_text()[-500:]}")


def _popen(root: Path, flags: Sequence[str]) -> subprocess.Popen[bytes]:
    with (root / "log").open("ab") as log:
        return subprocess.Popen(
            (
                "dockerd",
                f"--data-root={root / 'data'}",
                f"--exec-root={root / 'exec'}",
                f"--pidfile={root / 'pid'}",
                f"--host=unix://{root / 'docker.sock'}",
                *flags,
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _ready(root: Path, engine: subprocess.Popen[bytes]) -> bool:
    if engine.poll() is not None:
        raise AssertionError("dockerd ended")
    return docker_answers(root / "docker.sock")


def _stop(engine: subprocess.Popen[bytes], root: Path) -> None:
    """Ends the engine, and its containerd where that is left."""
    if engine.poll() is None:
        engine.terminate()
        try:
            engine.wait(timeout=30)
        except subprocess.TimeoutExpired:
            engine.kill()
            engine.wait()
    left = root / "exec" / "containerd" / "containerd.pid"
    if left.exists():
        pid = int(left.read_text())
        if Path(f"/proc/{pid}/cmdline").exists():
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def _import_busybox(lab: DockerLab) -> None:
    static = shutil.which("busybox")
    if static is None:
        pytest.skip("busybox is not here (apt-get install busybox-static)")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("bin", "tmp", "data"):
            (root / name).mkdir()
        (root / "tmp").chmod(0o1777)
        shutil.copy(static, root / "bin" / "busybox")
        for applet in _APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        _import(lab, root, BUSYBOX)


def _import(lab: DockerLab, root: Path, name: str) -> None:
    tar = root.with_suffix(".tar")
    try:
        subprocess.run(("tar", "-C", str(root), "-cf", str(tar), "."), check=True)
        lab.docker("import", str(tar), name)
    finally:
        tar.unlink(missing_ok=True)


def _make_python_tar() -> None:
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not here (apt-get install debootstrap)")
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        root = Path(folder) / "root"
        wanted = "--include=python3,python3-venv,git,ca-certificates"
        subprocess.run(
            ("debootstrap", "--variant=minbase", wanted, "bookworm", str(root)),
            check=True,
            capture_output=True,
        )
        (root / "usr/bin/python").symlink_to("python3")
        made = Path(folder) / "python.tar"
        subprocess.run(("tar", "-C", str(root), "-cf", str(made), "."), check=True)
        made.replace(_PYTHON_TAR)
