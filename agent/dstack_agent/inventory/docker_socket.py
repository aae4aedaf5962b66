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
    return not docker_trouble(path)


def docker_trouble(path: Path | None) -> str:
    """Why no engine answers on this socket; empty if one does. Blocks as `docker_answers` does."""
    if path is None:
        return "DOCKER_HOST names an engine of another machine."
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/_ping")
        status = connection.getresponse().status
    except TimeoutError:
        return f"Docker does not answer at {path} within {PING_SECONDS} s."
    except OSError as error:
        return f"Docker does not answer at {path}: {error.strerror or error}."
    except http.client.HTTPException as error:
        return f"What answers at {path} is not Docker: {type(error).__name__}."
    finally:
        connection.close()
    return "" if status == http.client.OK else f"Docker at {path} answers with status {status}."


class UnixConnection(http.client.HTTPConnection):
    """Speaks HTTP over a Unix socket, each step within a time."""

    def __init__(self, path: Path, seconds: float = PING_SECONDS) -> None:
        super().__init__("localhost", timeout=seconds)
        self._seconds = seconds
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(str(self._path))
