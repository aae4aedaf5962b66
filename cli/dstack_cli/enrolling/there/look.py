"""What the host is like, before anything is changed."""

import contextlib
import errno
import getpass
import hashlib
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from dstack_cli.enrolling.there.places import Places, read_json, session

ASK_SECONDS = 5


def answer(request: dict[str, Any], body: IO[bytes], tell: Callable[[str], None]) -> dict[str, Any]:
    """Facts, none of them judged."""
    places = Places(request["home"])
    noted = places.read_noted()
    listen = request["listen"] or noted.get("listen") or request["usual_listen"]
    membership = read_json(places.membership)
    return {
        "user": getpass.getuser(),
        "root": str(places.root),
        "host": socket.gethostname(),
        "system": _system(),
        "now": time.time(),
        "disk_free_bytes": _free(places.root),
        "cannot_write": _cannot_write(places.root),
        "other": "" if noted or membership else places.other(),
        "socket_bytes": len(os.fsencode(str(places.socket))),
        "port_trouble": "" if places.answers() else _port_trouble(listen),
        "serves": places.answers(),
        "mesh_id": membership.get("mesh_id", ""),
        "mesh_name": membership.get("mesh_name", ""),
        "peer_id": membership.get("peer_id", ""),
        "not_after": membership.get("not_after", ""),
        "noted": noted,
        "user_manager": _user_manager(),
        "docker": _docker(),
        "driver": _driver(),
        "wheels": _wheels(places.wheels),
        "path": os.environ.get("PATH", ""),
    }


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return f"Linux {platform.release()}"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _free(root: Path) -> int:
    return shutil.disk_usage(_existing(root)).free


def _cannot_write(root: Path) -> str:
    """The folder that may not be written; empty where all is well."""
    folder = _existing(root)
    return "" if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else str(folder)


def _port_trouble(listen: str) -> str:
    """Why the agent could not listen there; empty if it could."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            return "in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return ""


def _user_manager() -> bool:
    """Whether systemd serves this user."""
    if shutil.which("systemctl") is None:
        return False
    asked = ("systemctl", "--user", "show-environment")
    return _exit_code(asked) == 0


def _exit_code(command: tuple[str, ...]) -> int:
    try:
        return subprocess.run(
            command, env=session(), capture_output=True, timeout=ASK_SECONDS, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return -1


def _docker() -> str:
    """How jobs with an image would fare: "yes", "no", or "group": the user may not use it."""
    rootless = Path(session()["XDG_RUNTIME_DIR"], "docker.sock")
    for path in (rootless, Path("/var/run/docker.sock")):
        if path.exists():
            return "yes" if os.access(path, os.R_OK | os.W_OK) else "group"
    return "no"


def _driver() -> str:
    """Version of NVIDIA's driver; empty where there is none."""
    with contextlib.suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text().strip()
    return ""


def _wheels(folder: Path) -> dict[str, str]:
    """Wheels that arrived before, with the hash of what they are now."""
    with contextlib.suppress(OSError):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.iterdir()
            if not path.name.startswith(".")
        }
    return {}
