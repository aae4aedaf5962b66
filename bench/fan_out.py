"""The ask of many agents at once, until all answered: on new channels, and on warm ones.

A lab's agents have a machine each; here they share the laptop's processors, so where they live
counts. Each is asked once with all others in one process, whose code stays in the caches, and once
with a process each, which evict one another. Beside both stands gRPC alone, which answers without
looking: what is over that is ours. The laptop's own work is the same everywhere.
"""

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parts import free_ports, table

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
HERE = Path(__file__).parent
ALIKE = "--no-mdns", "--gpu", "V100:16GB"


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom the laptop asks."""

    home: Home
    port: int

    @property
    def word(self) -> str:
        """How the servers beside this file are told."""
        return f"{self.home.root}:{self.port}"


@dataclass(frozen=True, slots=True)
class Medians:
    """Seconds until all answered, and of the laptop's processor for each question."""

    new: float
    warm: float
    new_laptop: float
    warm_laptop: float

    def row(self, what: str, target: str = "") -> tuple[str, str, str]:
        """As a row of the table."""
        whole = f"{self.new * 1000:.0f} ms new, {self.warm * 1000:.0f} ms warm"
        laptop = f"laptop {self.new_laptop * 1000:.2f} and {self.warm_laptop * 1000:.2f} ms each"
        return (what, whole, f"{laptop}{target}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as name:
        folder = Path(name)
        mesh = Mesh.make(folder / "root")
        laptop = mesh.admit(folder / "laptop")
        homes = [mesh.admit(folder / f"agent-{index}") for index in range(AGENTS)]
        peers = [Peer(home, port) for home, port in zip(homes, free_ports(AGENTS), strict=True)]
        agents = [[*RUNNER, "start", *ALIKE, *place(peer)] for peer in peers]
        bare = [beside("bare_grpc.py", [peer]) for peer in peers]
        together = ask([beside("agents_in_one.py", peers)], laptop, peers)
        bare_together = ask([beside("bare_grpc.py", peers)], laptop, peers)
        apart, bare_apart = ask(agents, laptop, peers), ask(bare, laptop, peers)
    rows = [
        together.row("agents, all in one process", "; target <= 80 new, <= 20 warm"),
        bare_together.row("gRPC alone, the same"),
        apart.row("agents, a process each"),
        bare_apart.row("gRPC alone, the same"),
    ]
    table(f"Ask of {AGENTS} agents over mTLS until all answered, median of {TIMES}", rows)


def beside(file: str, peers: Sequence[Peer]) -> list[str]:
    """A server of this folder for some of the peers."""
    return [sys.executable, str(HERE / file), *(peer.word for peer in peers)]


def place(peer: Peer) -> tuple[str, ...]:
    """Where an agent lives and listens."""
    return "--home", str(peer.home.root), "--listen", f"127.0.0.1:{peer.port}"


def ask(commands: Sequence[Sequence[str]], laptop: Home, peers: Sequence[Peer]) -> Medians:
    """Starts servers, asks them all again and again, and stops them."""
    with contextlib.ExitStack() as stack:
        for command in commands:
            stack.enter_context(running(command))
        for peer in peers:
            answers(peer.port)
        time.sleep(2)
        return asyncio.run(measure(laptop, peers))


@contextlib.contextmanager
def running(command: Sequence[str]) -> Generator[None]:
    """A process that serves."""
    process = subprocess.Popen(
        command,
        env=os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"},
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


async def measure(laptop: Home, peers: Sequence[Peer]) -> Medians:
    """Asks on new channels, and at once again on the same ones."""
    store = ChunkStore(laptop.chunks)
    took: tuple[list[float], list[float]] = ([], [])
    worked: tuple[list[float], list[float]] = ([], [])
    cards = [card_of(peer.home, peer.home.root.name) for peer in peers]
    for _ in range(TIMES):
        channels = Channels(laptop)
        agents = [
            GrpcAgent(
                channels.to_peer(card.peer_id, Address(f"127.0.0.1:{peer.port}")),
                card,
                False,
                store,
            )
            for card, peer in zip(cards, peers, strict=True)
        ]
        for results, processor in zip(took, worked, strict=True):
            began, used = time.perf_counter(), time.process_time()
            bids = await asyncio.gather(*(agent.ask(QUESTION) for agent in agents))
            results.append(time.perf_counter() - began)
            processor.append((time.process_time() - used) / len(peers))
            assert len(bids) == len(peers)
        await channels.close()
    store.close()
    return Medians(*map(statistics.median, (*took, *worked)))


if __name__ == "__main__":
    main()
