"""How well a job is kept from the machine and the machine's person, measured and not promised."""

import http.client
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dstack_agent.executor import landlock
from dstack_agent.inventory.docker_socket import UnixConnection
from dstack_mesh.machine import ExecutorKind, Isolation

INFO_SECONDS = 2.0

Ask = Callable[[Path], Mapping[str, Any]]


def process_isolation(user: int | None = None, offered: int | None = None) -> Isolation:
    """The level of processes. Walls around root keep files apart, and root owns the machine."""
    walls = landlock.version() if offered is None else offered
    root = (os.getuid() if user is None else user) == 0
    return Isolation.LANDLOCK if walls and not root else Isolation.PLAIN


def container_isolation(socket: Path | None, ask: Ask | None = None) -> Isolation:
    """The level of containers, as the engine says it; plain if it does not say. Blocks."""
    if socket is None:
        return Isolation.PLAIN
    try:
        options = (ask or engine_info)(socket).get("SecurityOptions") or ()
    except (OSError, ValueError, http.client.HTTPException):
        return Isolation.PLAIN
    named = {str(option).partition(",")[0] for option in options}
    if "name=rootless" in named:
        return Isolation.ROOTLESS
    return Isolation.USERNS if "name=userns" in named else Isolation.PLAIN


def isolation_of(socket: Path | None) -> dict[ExecutorKind, Isolation]:
    """The level of each way to run a job. Blocks."""
    return {
        ExecutorKind.PROCESS: process_isolation(),
        ExecutorKind.DOCKER: container_isolation(socket),
    }


def engine_info(socket: Path) -> Mapping[str, Any]:
    """What an engine says of itself. Raises OSError, ValueError or HTTPException."""
    connection = UnixConnection(socket, INFO_SECONDS)
    try:
        connection.request("GET", "/info")
        found: Mapping[str, Any] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()
