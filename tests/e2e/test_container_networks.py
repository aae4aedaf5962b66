"""The network that containers share, where several make it at once on a real engine."""

import asyncio
import subprocess
import sys
from typing import Any

import docker
import pytest
from docker.errors import APIError

from dstack_agent.executor import networks
from dstack_agent.executor.port import Ended
from support.container_bench import Bench
from support.launches import written

pytestmark = pytest.mark.docker

AGENTS = 4

AGENT = """
import sys, docker
from dstack_agent.executor.networks import network_of
engine = docker.APIClient(base_url=sys.argv[1], version="auto")
print("ready", flush=True)
sys.stdin.readline()
network_of(engine)
"""


def client_of(bench: Bench) -> Any:
    return docker.APIClient(base_url=f"unix://{bench.lab.socket}", version="auto")


def there(engine: Any) -> list[str]:
    found = engine.networks(names=[networks.JOBS])
    return [each["Id"] for each in found if each["Name"] == networks.JOBS]


def remove_all(engine: Any) -> None:
    """No container uses them between two tests."""
    for each in there(engine):
        engine.remove_network(each)


async def runs(bench: Bench) -> bool:
    ended, folder = await bench.run("echo hello")
    return (ended, written(folder)[0]) == (Ended(0), b"hello\n")


def make_at_once(bench: Bench) -> None:
    """Has as many agents as there are want it at the same moment."""
    command = (sys.executable, "-c", AGENT, f"unix://{bench.lab.socket}")
    agents = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(AGENTS)
    ]
    for agent in agents:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"ready\n"
    for agent in agents:
        assert agent.stdin is not None
        agent.stdin.write(b"go\n")
        agent.stdin.flush()
    for agent in agents:
        agent.communicate(timeout=30)
        assert agent.returncode == 0


async def test_agents_that_make_it_at_once_make_one(bench: Bench) -> None:
    engine = client_of(bench)
    remove_all(engine)
    await asyncio.to_thread(make_at_once, bench)
    assert len(there(engine)) == 1
    assert await runs(bench)


async def test_a_name_that_an_engine_took_twice_keeps_no_container_from_starting(
    bench: Bench,
) -> None:
    engine = client_of(bench)
    remove_all(engine)
    for _ in range(2):
        try:
            engine.create_network(networks.JOBS, driver="bridge")
        except APIError:
            pytest.skip("this engine takes no name twice")
    first = min(engine.networks(names=[networks.JOBS]), key=lambda one: one["Created"])
    assert len(there(engine)) == 2
    assert await runs(bench)
    assert there(engine) == [first["Id"]]
    remove_all(engine)
