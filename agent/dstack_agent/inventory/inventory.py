"""A reading of the machine, put together from its parts, each read as often as it changes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from dstack_agent.inventory.cpu_memory import CpuMemory, read_cpu_memory
from dstack_agent.inventory.source import GpuSource
from dstack_mesh.chunks.room import free_for_jobs
from dstack_mesh.clock import Clock
from dstack_mesh.machine import ExecutorKind, Gpu, Isolation, Machine

MOMENT_SECONDS = 0.5
"""So long a reading serves those who ask; reading it costs half a millisecond."""

GPU_SECONDS = 1.0
"""How old the cards of a reading may be: a few milliseconds of driver calls for each."""

DOCKER_SECONDS = 10.0
"""How old the knowledge may be that Docker answers."""

PYTHON_SECONDS = 60.0
"""How old the list of Python versions may be."""

ISOLATION_SECONDS = 60.0
"""How old the knowledge may be how jobs are kept from the machine."""

SSHD_SECONDS = 60.0
"""How old the knowledge may be whether jobs can be entered over SSH."""

T = TypeVar("T")


class Fresh(Generic[T]):
    """A value that is read again once it is too old."""

    def __init__(self, read: Callable[[], T], seconds: float, clock: Clock) -> None:
        self._read = read
        self._seconds = seconds
        self._clock = clock
        self._kept: tuple[float, T] | None = None

    def get(self) -> T:
        now = self._clock.elapsed()
        if self._kept is None or now - self._kept[0] >= self._seconds:
            self._kept = (now, self._read())
        return self._kept[1]

    def forget(self) -> None:
        """The next `get` reads."""
        self._kept = None


class Inventory:
    """What this machine has. Thread-safe; `read` blocks for milliseconds, so call it in a thread.

    Args:
        folder: Where jobs work; its disk is the one that counts.
        clock: Tells the age of what was read.
        sources: Where cards come from; of two with the same uuid the first counts.
        docker: Why no Docker engine answers; empty if one does.
        pythons: Python versions that jobs can use.
        cpu_memory: Processors and memory.
        allow_process: Whether jobs may run as processes of the host.
        isolation: How jobs of each kind are kept from the machine.
        interruptible: Whether the machine may be taken away at any moment.
        sshd: Why no job can be entered over SSH, none of others, and none in a container; empty if
            it can.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        sources: Sequence[GpuSource] = (),
        docker: Callable[[], str] = lambda: "Docker is not looked for.",
        pythons: Callable[[], tuple[str, ...]] = tuple,
        cpu_memory: Callable[[], CpuMemory] = read_cpu_memory,
        allow_process: bool = True,
        isolation: Callable[[], Mapping[ExecutorKind, Isolation]] = dict,
        interruptible: bool = False,
        sshd: Callable[[], tuple[str, str, str]] = lambda: ("", "", ""),
    ) -> None:
        self._folder = folder
        self._sources = tuple(sources)
        self._cpu_memory = cpu_memory
        self._allow_process = allow_process
        self._interruptible = interruptible
        self._machine = Fresh(self._read_machine, MOMENT_SECONDS, clock)
        self._gpus = Fresh(self._read_gpus, GPU_SECONDS, clock)
        self._docker = Fresh(docker, DOCKER_SECONDS, clock)
        self._pythons = Fresh(pythons, PYTHON_SECONDS, clock)
        self._isolation = Fresh(isolation, ISOLATION_SECONDS, clock)
        self._sshd = Fresh(sshd, SSHD_SECONDS, clock)
        self._lock = Lock()

    def read(self) -> Machine:
        """The machine of this moment. Cards carry a holder only where strangers use them."""
        with self._lock:
            return self._machine.get()

    def look_at_cards(self) -> tuple[Gpu, ...]:
        """The cards of this very moment; readings from now on know what was seen."""
        with self._lock:
            self._gpus.forget()
            self._machine.forget()
            return self._gpus.get()

    def _read_machine(self) -> Machine:
        part = self._cpu_memory()
        executors = self._executors()
        own, others, contained = self._sshd.get()
        return Machine(
            cpus=part.cpus,
            memory_bytes=part.memory_bytes,
            memory_free_bytes=part.memory_free_bytes,
            disk_free_bytes=_disk_free(self._folder),
            gpus=self._gpus.get(),
            executors=executors,
            no_docker=self._docker.get(),
            no_sshd=own,
            no_sshd_of_others=others,
            no_sshd_in_containers=contained,
            pythons=self._pythons.get(),
            isolation={
                kind: level for kind, level in self._isolation.get().items() if kind in executors
            },
            interruptible=self._interruptible,
        )

    def _read_gpus(self) -> tuple[Gpu, ...]:
        found: dict[str, Gpu] = {}
        for source in self._sources:
            for gpu in source.cards():
                found.setdefault(gpu.uuid, gpu)
        return tuple(found.values())

    def _executors(self) -> frozenset[ExecutorKind]:
        kinds = {ExecutorKind.PROCESS} if self._allow_process else set[ExecutorKind]()
        if not self._docker.get():
            kinds.add(ExecutorKind.DOCKER)
        return frozenset(kinds)


def _disk_free(folder: Path) -> int:
    """Bytes that jobs can get on the disk of a folder, or of the first parent that exists."""
    return free_for_jobs(next(path for path in (folder, *folder.parents) if path.exists()))
