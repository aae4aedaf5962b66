"""This machine: the home, the disk, the certificate, git, Docker, cards, networks."""

import ctypes
import os
import secrets
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dstack_cli.checkup.finding import Finding, failed, passed, warned
from dstack_cli.output.words import count as counted
from dstack_cli.output.words import size
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership

DISK_WARN_BYTES = 10 * 10**9
DISK_FAIL_BYTES = 10**9
DOCKER_SECONDS = 2.0
LONGEST_SOCKET_PATH = 107
"""Bytes of a Unix socket's path that the kernel takes."""


def check_home(home: Home) -> Finding:
    """Whether we can keep anything."""
    probe = home.root / f".probe-{secrets.token_hex(4)}"
    try:
        home.prepare()
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return failed(
            "home",
            f"{home.root} cannot be written: {error.strerror}",
            f"sudo chown -R $(id -u) {home.root}   or set DSTACK_HOME to a folder of yours",
        )
    length = len(os.fsencode(home.agent_socket))
    if length > LONGEST_SOCKET_PATH:
        return failed(
            "home",
            f"{home.agent_socket} is {length} bytes long; a socket's path has at most"
            f" {LONGEST_SOCKET_PATH}",
            "set DSTACK_HOME to a folder with a shorter path",
        )
    return passed("home", f"{home.root} can be written")


def check_disk(home: Home) -> Finding:
    """Whether there is room for chunks and work directories."""
    folder = next(path for path in (home.root, *home.root.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    message = f"{size(free)} are free at {folder}"
    fix = "free some space, or move DSTACK_HOME to a larger disk"
    if free < DISK_FAIL_BYTES:
        return failed("disk", message, fix)
    return warned("disk", message, fix) if free < DISK_WARN_BYTES else passed("disk", message)


def check_membership(home: Home, now: datetime) -> Finding:
    """Whether this home belongs to a mesh, and until when."""
    try:
        membership = Membership.load(home)
        if membership is None:
            return passed(
                "mesh", "no mesh joined: runs stay on this machine (dstack mesh join CODE)"
            )
        membership.check_valid(now)
    except MeshError as error:
        return failed("mesh", str(error), error.hint)
    left = membership.not_after - now
    message = (
        f'member of "{membership.mesh_name}", certificate good until {membership.not_after:%F}'
    )
    if left < timedelta(days=7):
        return warned("mesh", message, "dstack mesh leave; dstack mesh join CODE")
    return passed("mesh", message)


def check_git() -> Finding:
    """Whether code can be taken as git sees it."""
    found = shutil.which("git")
    if found is None:
        return warned(
            "git",
            "git is not on PATH: `dstack run` needs it to take the code",
            "sudo apt-get install git",
        )
    return passed("git", found)


def check_docker() -> Finding:
    """Whether workflows with an image can run here."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        return warned("docker", f"DOCKER_HOST is {host}; only an engine of this machine is used")
    path = Path(host.removeprefix("unix://"))
    if not path.exists():
        return warned(
            "docker",
            f"{path} does not exist: workflows with an image run elsewhere",
            "sudo apt-get install docker.io",
        )
    try:
        answer = _ping(path)
    except PermissionError:
        return warned(
            "docker",
            f"{path} may not be opened by {_user()}",
            "sudo usermod -aG docker $USER   (and log in again)",
        )
    except OSError as error:
        return warned("docker", f"{path} does not answer: {error}", "sudo systemctl start docker")
    return (
        passed("docker", f"the engine answers at {path}")
        if b" 200 " in answer
        else warned(
            "docker", f"{path} answers strangely: {answer[:40]!r}", "sudo systemctl restart docker"
        )
    )


def check_gpus() -> Finding:
    """Whether the driver tells of cards."""
    nodes = sorted(Path("/dev").glob("nvidia[0-9]*"))
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        if not nodes:
            return passed("gpu", "no NVIDIA card on this machine")
        return failed(
            "gpu",
            f"{nodes[0]} exists, but the driver's library libnvidia-ml.so.1 does not load",
            "install the driver's package again (nvidia-smi must work)",
        )
    code, count = library.nvmlInit_v2(), ctypes.c_uint(0)
    if code == 0:
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        library.nvmlShutdown()
        return passed("gpu", f"the driver answers: {counted(count.value, 'NVIDIA card')}")
    return (failed if nodes else warned)(
        "gpu",
        f"the driver does not answer (NVML error {code})",
        "nvidia-smi   (if it fails too, reload the driver or restart the machine)",
    )


def check_interfaces() -> Finding:
    """Whether multicast can leave this machine."""
    from dstack_mesh.discovery.interfaces import addresses_of, leading_outside, read_interfaces

    if os.environ.get("DSTACK_MDNS") == "0":
        return warned("mdns", "turned off by DSTACK_MDNS=0: agents are found by seeds only")
    found = leading_outside(read_interfaces())
    if not found:
        return warned(
            "mdns",
            "no network leads to other machines",
            "connect a network, or name an agent: DSTACK_SEEDS=HOST:PORT",
        )
    names = ", ".join(one.name for one in found)
    return passed("mdns", f"{names}: {', '.join(map(str, addresses_of(found)))}")


def checks(home: Home) -> list[Finding]:
    """Everything that can be seen without talking to an agent."""
    return [
        check_home(home),
        check_disk(home),
        check_membership(home, datetime.now(UTC)),
        check_git(),
        check_docker(),
        check_gpus(),
        check_interfaces(),
    ]


def _ping(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.settimeout(DOCKER_SECONDS)
        engine.connect(str(path))
        engine.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        return engine.recv(1024)


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())
