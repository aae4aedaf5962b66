"""The ask of many agents at once, until all answered: on new channels, and on warm ones."""

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from parts import free_port, table

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_mesh.wire.channels import Channels
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire.agent import GrpcAgent
from support.lab import RUNNER
from support.meshes import Mesh, card_of

AGENTS = int(sys.argv[1]) if len(sys.argv) > 1 else 50
TIMES = 15
QUESTION = Question(
    JobKey(RunId("0" * 26), 0),
    RunName("calm-ibex-1"),
    Needs(gpus=1),
    ExecutorKind.PROCESS,
)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as name:
        folder = Path(name)
        mesh = Mesh.make(folder / "root")
        laptop = mesh.admit(folder / "laptop")
        homes = [mesh.admit(folder / f"agent-{index}") for index in range(AGENTS)]
        ports = [free_port() for _ in homes]
        with contextlib.ExitStack() as stack:
            for home, port in zip(homes, ports, strict=True):
                stack.enter_context(agent(home, port))
            for port in ports:
                answers(port)
            time.sleep(2)
            new, warm = asyncio.run(measure(laptop, homes, ports))
    table(
        f"Ask of {AGENTS} agents over mTLS until all answered, median of {TIMES}",
        [
            ("new channels", f"{new * 1000:.0f} ms", "target <= 80 ms"),
            ("warm channels", f"{warm * 1000:.0f} ms", "target <= 20 ms"),
        ],
    )


@contextlib.contextmanager
def agent(home: Home, port: int) -> Generator[None]:
    """A real agent in a process of its own."""
    flags = ("--no-mdns", "--listen", f"127.0.0.1:{port}", "--gpu", "V100:16GB")
    process = subprocess.Popen(
        (*RUNNER, "start", *flags),
        env=os.environ | {"DSTACK_HOME": str(home.root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> None:
    """Waits until somebody listens there."""
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


async def measure(laptop: Home, homes: list[Home], ports: list[int]) -> tuple[float, float]:
    """Median seconds on new channels and on warm ones."""
    store = ChunkStore(laptop.chunks)
    new: list[float] = []
    warm: list[float] = []
    for _ in range(TIMES):
        channels = Channels(laptop)
        cards = [card_of(home, home.root.name) for home in homes]
        agents = [
            GrpcAgent(
                channels.to_peer(card.peer_id, Address(f"127.0.0.1:{port}")), card, False, store
            )
            for card, port in zip(cards, ports, strict=True)
        ]
        for results in (new, warm):
            began = time.perf_counter()
            bids = await asyncio.gather(*(agent.ask(QUESTION) for agent in agents))
            results.append(time.perf_counter() - began)
            assert len(bids) == len(homes)
        await channels.close()
    store.close()
    return statistics.median(new), statistics.median(warm)


if __name__ == "__main__":
    main()
