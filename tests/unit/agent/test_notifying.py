"""What an agent tells whoever started it."""

import asyncio
import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from dstack_agent.notifying import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def test_it_says_that_it_is_ready_and_that_it_stops(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "HOME": "/"}
    notifier = Notifier(environment)
    notifier.ready("serves lab")
    assert manager.recv(4096).splitlines() == [b"READY=1", b"STATUS=serves lab"]
    notifier.stopping()
    assert manager.recv(4096) == b"STOPPING=1"
    assert environment == {"HOME": "/"}, "jobs must not be able to speak for the agent"


async def test_it_says_that_it_lives_twice_in_the_watchdogs_time(manager: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "40000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    living = asyncio.ensure_future(Notifier(environment).run())
    assert await asyncio.to_thread(manager.recv, 4096) == b"WATCHDOG=1"
    assert await asyncio.to_thread(manager.recv, 4096) == b"WATCHDOG=1"
    living.cancel()


async def test_the_watchdog_of_another_process_is_none_of_ours(manager: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "1000",
        "WATCHDOG_PID": "1",
    }
    await asyncio.wait_for(Notifier(environment).run(), 5)


async def test_nobody_who_listens_is_no_trouble(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    await asyncio.wait_for(Notifier({}).run(), 5)
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


def test_a_name_that_is_in_no_folder_is_spoken_to() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"dstack-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert listening.recv(4096) == b"STOPPING=1"
