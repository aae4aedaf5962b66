"""Whether a Docker engine answers on this machine, asked without Docker's own library."""

import http.client
import os
import socket
from collections.abc import Mapping
from pathlib import Path

PING_SECONDS = 0.2
"""An engine that does not answer a ping within this does not run jobs for us either."""

DEFAULT_SOCKET = Path("/var/run/docker.sock")


def docker_socket(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where the engine's socket is; None if DOCKER_HOST names another machine's."""
    host = environment.get("DOCKER_HOST", "")
    if not host:
        return DEFAULT_SOCKET
    return Path(host.removeprefix("unix://")) if host.startswith("unix://") else None


def docker_answers(path: Path | None) -> bool:
    """Whether an engine answers a ping on this socket. Blocks at most `PING_SECONDS` a step."""
    if path is None or not path.exists():
        return False
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PING_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PING_SECONDS)
        self.sock.connect(str(self._path))
