"""Docker's engine: there, reachable by this user, able to give cards to containers."""

import grp
import json
import os
import pwd
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from dstack_cli.checkup.finding import Finding, failed, passed, warned

USUAL = "unix:///var/run/docker.sock"
ENGINE_SECONDS = 2.0
MOST_BYTES = 1 << 20


def check_docker(environ: Mapping[str, str], cards: bool) -> Sequence[Finding]:
    """Whether workflows with an image can run here.

    Args:
        cards: NVIDIA cards are on this machine, so containers should get them.
    """
    host = environ.get("DOCKER_HOST") or USUAL
    scheme, _, where = host.partition("://")
    if not where:
        what = "DOCKER_HOST is no address of an engine: that is unix://PATH"
        return [failed("docker", "docker-address", what, f"export DOCKER_HOST={USUAL}")]
    if scheme != "unix":
        return [
            warned(
                "docker",
                "docker-elsewhere",
                f"DOCKER_HOST names an engine of another machine ({scheme}); only one of this"
                " machine is used",
                "unset DOCKER_HOST",
            )
        ]
    path = Path(where)
    if not path.exists():
        return [
            warned(
                "docker",
                "no-docker",
                f"{path} does not exist: workflows with an image run elsewhere",
                "sudo systemctl start docker   (not installed: sudo apt-get install docker.io)",
            )
        ]
    try:
        answer = _ask(path, "/info")
    except PermissionError:
        return [_forbidden(path)]
    except OSError as error:
        what = f"{path} does not answer: {error}"
        return [failed("docker", "docker-silent", what, "sudo systemctl restart docker")]
    return [*_engine(path, answer), *(_toolkit(answer) if cards else ())]


def _engine(path: Path, answer: bytes) -> Sequence[Finding]:
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        what = f"{path} answers strangely: {answer[:40]!r}"
        return [warned("docker", "docker-strange", what, "sudo systemctl restart docker")]
    version = _information(answer).get("ServerVersion", "?")
    return [passed("docker", f"engine {version} answers at {path}")]


def _toolkit(answer: bytes) -> Sequence[Finding]:
    runtimes = _information(answer).get("Runtimes")
    if not isinstance(runtimes, dict) or "nvidia" in runtimes:
        return []
    return [
        warned(
            "docker gpu",
            "no-container-toolkit",
            "Docker cannot give NVIDIA cards to containers: it has no runtime `nvidia`",
            "sudo apt-get install nvidia-container-toolkit && sudo nvidia-ctk runtime configure"
            " --runtime=docker && sudo systemctl restart docker",
        )
    ]


def _information(answer: bytes) -> dict[str, object]:
    try:
        told: object = json.loads(answer.partition(b"\r\n\r\n")[2])
    except ValueError:
        return {}
    return cast("dict[str, object]", told) if isinstance(told, dict) else {}


def _forbidden(path: Path) -> Finding:
    """The socket exists and this user may not open it: which group would help, and since when."""
    user, group = _user(), _group_of(path)
    if group is None:
        what = f"{path} may be opened by root alone"
        fix = f"sudo groupadd -f docker && sudo chgrp docker {path} && sudo chmod g+rw {path}"
        more = f"sudo usermod -aG docker {user} && newgrp docker"
        return failed("docker", "docker-group", what, f"{fix} && {more}")
    if user in group.gr_mem:
        what = f"{user} is in group {group.gr_name}, but has not logged in again since"
        fix = f"newgrp {group.gr_name}   (or log in again; an agent too must be started again)"
        return failed("docker", "docker-group", f"{path} may not be opened: {what}", fix)
    return failed(
        "docker",
        "docker-group",
        f"{path} belongs to group {group.gr_name}, and {user} is not in it",
        f"sudo usermod -aG {group.gr_name} {user} && newgrp {group.gr_name}",
    )


def _group_of(path: Path) -> grp.struct_group | None:
    status = path.stat()
    if status.st_gid == 0 or not status.st_mode & 0o020:
        return None
    try:
        return grp.getgrgid(status.st_gid)
    except KeyError:
        return None


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _ask(path: Path, what: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.settimeout(ENGINE_SECONDS)
        engine.connect(str(path))
        engine.sendall(f"GET {what} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        answer = b""
        while len(answer) < MOST_BYTES and (more := engine.recv(1 << 16)):
            answer += more
        return answer
