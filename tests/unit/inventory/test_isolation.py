"""How well jobs are kept from the machine is measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dstack_agent.inventory.isolation import container_isolation, process_isolation
from dstack_mesh.machine import Isolation

SOCKET = Path("/var/run/docker.sock")


@pytest.mark.parametrize(
    ("user", "offered", "level"),
    [
        (1000, 7, Isolation.LANDLOCK),
        (1000, 1, Isolation.LANDLOCK),
        (1000, 0, Isolation.PLAIN),
        (0, 7, Isolation.PLAIN),
    ],
)
def test_processes_have_walls_where_the_kernel_has_them_and_the_agent_is_not_root(
    user: int, offered: int, level: Isolation
) -> None:
    assert process_isolation(user, offered) is level


@pytest.mark.parametrize(
    ("options", "level"),
    [
        (["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"], Isolation.ROOTLESS),
        (["name=seccomp,profile=builtin", "name=userns"], Isolation.USERNS),
        (["name=seccomp,profile=default"], Isolation.PLAIN),
        ([], Isolation.PLAIN),
        (None, Isolation.PLAIN),
    ],
)
def test_an_engine_says_how_its_containers_are_kept(
    options: list[str] | None, level: Isolation
) -> None:
    def ask(socket: Path) -> Mapping[str, Any]:
        return {"SecurityOptions": options}

    assert container_isolation(SOCKET, ask) is level


@pytest.mark.parametrize("trouble", [OSError("gone"), json.JSONDecodeError("x", "", 0)])
def test_an_engine_that_does_not_say_counts_as_plain(trouble: Exception) -> None:
    def ask(socket: Path) -> Mapping[str, Any]:
        raise trouble

    assert container_isolation(SOCKET, ask) is Isolation.PLAIN
    assert container_isolation(None) is Isolation.PLAIN
