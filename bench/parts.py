"""What the benchmarks share: a workstation and a laptop of one mesh, medians, and a table."""

import contextlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.alone import end_private_agent
from support.lab import Daemon, Peer, join_mesh, make_peer


@dataclass(frozen=True, slots=True)
class Pair:
    """A laptop that only submits, and a workstation whose agent runs."""

    laptop: Peer
    station: Peer
    daemon: Daemon
    folder: Path


@contextlib.contextmanager
def pair() -> Generator[Pair]:
    """Both peers on loopback, over mutual TLS, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as name:
        folder = Path(name)
        port = free_port()
        station = make_peer(folder, "ws", DSTACK_MDNS="0")
        laptop = make_peer(folder, "laptop", DSTACK_MDNS="0", DSTACK_SEEDS=f"127.0.0.1:{port}")
        join_mesh(station, laptop, role="submitter")
        with station.runner("--listen", f"127.0.0.1:{port}") as daemon:
            try:
                yield Pair(laptop, station, daemon, folder)
            finally:
                end_private_agent(laptop)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """As many different ones."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def seconds(work: Callable[[], object]) -> float:
    """How long it took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(times: int, *works: Callable[[], float]) -> list[float]:
    """The median of each, measured in turns so that a noisy minute hits all alike."""
    measured: list[list[float]] = [[] for _ in works]
    for _ in range(times):
        for work, results in zip(works, measured, strict=True):
            results.append(work())
    return [statistics.median(results) for results in measured]


def table(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """Prints rows of what, figure, ratio or target."""
    print(f"\n{title}")
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
