"""The whole reading of a machine, and how often its parts are read."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack_agent.inventory import Inventory
from dstack_agent.inventory.cpu_memory import CpuMemory
from dstack_agent.inventory.declared import DeclaredSource
from dstack_agent.inventory.docker_socket import (
    DEFAULT_SOCKET,
    docker_answers,
    docker_socket,
    docker_trouble,
)
from dstack_agent.inventory.inventory import (
    DOCKER_SECONDS,
    GPU_SECONDS,
    MOMENT_SECONDS,
    PYTHON_SECONDS,
)
from dstack_agent.inventory.nvml import NvmlSource
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.gpus import parse_declared
from support.machines import SetClock
from support.recorded_nvml import two_v100


def test_a_reading_has_every_part(tmp_path: Path) -> None:
    nvml = two_v100()
    sources = [NvmlSource(nvml), DeclaredSource(tmp_path, [parse_declared("T4:16GB")])]
    machine = Inventory(
        tmp_path / "jobs" / "not-there-yet",
        SetClock(),
        sources,
        docker=lambda: "",
        pythons=lambda: ("3.11", "3.12"),
        cpu_memory=lambda: CpuMemory(4, 8, 6),
    ).read()
    assert (machine.cpus, machine.memory_bytes, machine.memory_free_bytes) == (4, 8, 6)
    assert machine.disk_free_bytes > 0
    assert [gpu.simulated for gpu in machine.gpus] == [False, False, True]
    assert machine.executors == frozenset(ExecutorKind)
    assert machine.pythons == ("3.11", "3.12")


def test_processes_are_offered_only_where_allowed(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path, SetClock(), docker=lambda: "", allow_process=False)
    assert inventory.read().executors == frozenset({ExecutorKind.DOCKER})
    assert Inventory(tmp_path, SetClock()).read().executors == {ExecutorKind.PROCESS}


def test_parts_are_read_again_when_they_are_too_old(tmp_path: Path) -> None:
    clock = SetClock()
    reads = {"docker": 0, "pythons": 0, "cpus": 0}
    nvml = two_v100()

    def count(part: str) -> int:
        reads[part] += 1
        return reads[part]

    def pythons() -> tuple[str, ...]:
        count("pythons")
        return ()

    inventory = Inventory(
        tmp_path,
        clock,
        [NvmlSource(nvml)],
        docker=lambda: "" if count("docker") > 1 else "No.",
        pythons=pythons,
        cpu_memory=lambda: CpuMemory(count("cpus"), 8, 8),
    )
    inventory.read()
    nvml.devices.pop()
    assert inventory.read().cpus == 1
    clock.time += MOMENT_SECONDS
    again = inventory.read()
    assert (again.cpus, len(again.gpus), reads) == (2, 2, {"docker": 1, "pythons": 1, "cpus": 2})
    clock.time += GPU_SECONDS
    assert len(inventory.read().gpus) == 1
    clock.time += DOCKER_SECONDS
    assert ExecutorKind.DOCKER in inventory.read().executors
    clock.time += PYTHON_SECONDS
    inventory.read()
    assert (reads["docker"], reads["pythons"]) == (3, 2)


@contextmanager
def engine(path: Path, answer: Callable[[socket.socket], None]) -> Generator[None]:
    """Something that listens on a Docker socket and answers one call."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("answer", "answers"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", True),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", False),
        (b"nonsense\r\n\r\n", False),
        (b"", False),
    ],
)
def test_docker_is_there_if_it_answers_a_ping(tmp_path: Path, answer: bytes, answers: bool) -> None:
    path = tmp_path / "docker.sock"
    with engine(path, lambda connection: connection.sendall(answer)):
        assert docker_answers(path) is answers


def test_docker_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    path, done = tmp_path / "docker.sock", threading.Event()

    def hang(connection: socket.socket) -> None:
        done.wait(10)

    with engine(path, hang):
        assert not docker_answers(path)
        done.set()


def test_a_socket_that_nobody_serves_is_no_docker(tmp_path: Path) -> None:
    assert not docker_answers(None)
    assert not docker_answers(tmp_path / "missing.sock")
    assert "missing.sock: No such file" in docker_trouble(tmp_path / "missing.sock")
    assert "another machine" in docker_trouble(None)
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(left))
    assert not docker_answers(left)
    assert "left.sock: Connection refused" in docker_trouble(left)


def test_the_engines_socket_is_where_docker_looks_for_it() -> None:
    assert docker_socket({}) == DEFAULT_SOCKET
    assert docker_socket({"DOCKER_HOST": "unix:///run/user/1/docker.sock"}) == Path(
        "/run/user/1/docker.sock"
    )
    assert docker_socket({"DOCKER_HOST": "tcp://elsewhere:2375"}) is None
