"""Machines, questions and time, made up for tests of the auction's parts."""

from datetime import UTC, datetime

from dstack_mesh.ids import Digest, RunId, RunName
from dstack_mesh.machine import ExecutorKind, Gpu, Machine
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import JobKey, JobSpec
from dstack_scheduler.needs import Needs

GIB = 2**30


class SetClock:
    """Time that passes only when told."""

    def __init__(self, elapsed: float = 1000.0) -> None:
        self.time = elapsed

    def elapsed(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)


def gpu(index: int, name: str = "Tesla V100-SXM2-16GB", gib: float = 16, holder: str = "") -> Gpu:
    return Gpu(f"GPU-{index}", name, int(gib * GIB), holder=holder)


def machine(
    *gpus: Gpu,
    cpus: int = 8,
    memory_gb: float = 64,
    disk_gb: float = 100,
    executors: frozenset[ExecutorKind] = frozenset(ExecutorKind),
    pythons: tuple[str, ...] = ("3.11",),
) -> Machine:
    memory = int(memory_gb * 10**9)
    return Machine(cpus, memory, memory, int(disk_gb * 10**9), gpus, executors, pythons)


def key(run: int = 1, job: int = 0, attempt: int = 1) -> JobKey:
    return JobKey(RunId(f"{run:026d}"), job, attempt)


NOTHING = Needs()
FIRST = key()


def question(
    needs: Needs = NOTHING,
    key: JobKey = FIRST,
    name: str = "lazy-bobcat-1",
    executor: ExecutorKind = ExecutorKind.PROCESS,
    python: str = "",
) -> Question:
    return Question(key, RunName(name), needs, executor, python)


def spec(asked: Question, workflow: str = "train", code: bytes = b"") -> JobSpec:
    return JobSpec(
        key=asked.key,
        run_name=asked.run_name,
        workflow=workflow,
        provider="bash",
        commands=("true",),
        needs=asked.needs,
        code_digest=Digest(code),
        submitted_at=datetime(2026, 11, 20, tzinfo=UTC),
        owner="ana@laptop",
    )
