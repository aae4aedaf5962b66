"""What a machine has and what of it is free, as jobs can get it."""

from collections.abc import Mapping
from dataclasses import field
from enum import Enum

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId, RunName


class ExecutorKind(Enum):
    """A way to run a job."""

    PROCESS = "process"
    DOCKER = "docker"


class Isolation(Enum):
    """How a job is kept from the machine: a container by its engine, a process by its kernel.

    An engine may be rootless, or its root be nobody outside; a process of somebody else may have
    walls. Plain is what is left.
    """

    ROOTLESS = "rootless"
    USERNS = "userns"
    LANDLOCK = "landlock"
    PLAIN = "plain"


@frozen
class Gpu:
    """A card, or a MIG slice of one.

    Attributes:
        uuid: NVML's uuid; "SIM-…" for a declared card.
        name: Model as the driver says it, as "Tesla V100-SXM2-16GB".
        memory_bytes: Memory of the card.
        simulated: Declared for tests; there is no such card.
        holder: Who has it: a run's name or "pid 42 (ana)"; empty while it is free.
        number: As the driver counts cards, known on the machine itself only; no part of what two
            cards are compared by.
    """

    uuid: str
    name: str
    memory_bytes: int
    simulated: bool = False
    holder: str = ""
    number: int | None = field(default=None, kw_only=True)

    @property
    def free(self) -> bool:
        return not self.holder


@frozen
class Machine:
    """A reading of a machine: memory and disk of this moment, disk beyond the reserve.

    Attributes:
        disk_free_bytes: What jobs can get; a reserve is kept for the machine's owner.
        gpus: They carry who holds them.
        isolation: By the way to run a job; what is not known is not there.
        interruptible: It may be taken away at any moment, and so may what runs there.
        no_sshd: Why no job can be entered over SSH; empty if it can. Never sent either.
        no_sshd_of_others: The same of jobs that somebody else submitted.
        no_sshd_in_containers: The same of jobs in containers, whose image has the server.
        no_docker: Why no Docker engine answers; known on the machine itself only, never sent.
    """

    cpus: int
    memory_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    gpus: tuple[Gpu, ...] = ()
    executors: frozenset[ExecutorKind] = frozenset({ExecutorKind.PROCESS})
    pythons: tuple[str, ...] = ()
    no_docker: str = ""
    isolation: Mapping[ExecutorKind, Isolation] = field(
        default_factory=dict[ExecutorKind, Isolation]
    )
    interruptible: bool = False
    no_sshd: str = ""
    no_sshd_of_others: str = ""
    no_sshd_in_containers: str = ""


class AgentState(Enum):
    """Whether an agent takes jobs."""

    ALIVE = "alive"
    DRAINING = "draining"
    PAUSED = "paused"


@frozen
class RunningJob:
    """A job that runs on an agent now."""

    run_name: RunName
    job: int
    gpu_uuids: tuple[str, ...] = ()


@frozen
class JobLoad:
    """What a job uses with all its processes; `cpus` is None before it was measured twice."""

    run_id: RunId
    job: int
    cpus: float | None
    memory_bytes: int


@frozen
class CardLoad:
    """What is used of a card, by whomever; `busy_percent` is None where the driver says nothing."""

    uuid: str
    memory_bytes: int
    busy_percent: int | None = None


@frozen
class Load:
    """What of a machine was used a moment ago.

    Attributes:
        cpus: Processors that were busy, whatever kept them so; None before it was measured twice.
        jobs: Those that run there, as far as they can be measured.
        cards: Those whose driver says it.
    """

    cpus: float | None = None
    jobs: tuple[JobLoad, ...] = ()
    cards: tuple[CardLoad, ...] = ()
