"""How much of this machine is used, by each job and in all: differences between two readings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dstack_agent.executor.watching import read_shim
from dstack_agent.inventory.cgroup import group_folders
from dstack_agent.inventory.spent import Shares, Spent, of_group, of_machine, of_tree
from dstack_agent.jobs.places import key_of
from dstack_agent.real_cards import container_of
from dstack_mesh.clock import Clock
from dstack_mesh.faults import Damaged
from dstack_mesh.frozen import frozen
from dstack_mesh.machine import CardLoad, JobLoad, Load
from dstack_scheduler.job import JobKey


@frozen
class Reading:
    """What was spent until a moment of the clock."""

    at: float
    machine: Shares
    jobs: Mapping[JobKey, Spent]


class Meter:
    """Remembers the last reading. Blocks for about a millisecond; from one thread at a time.

    Args:
        folders: Of the jobs that run now.
        changes: A number that is another one whenever they may be others.
        clock: For the time between two readings.
        cards: What was used of them when the machine was read, a moment ago.
    """

    def __init__(
        self,
        folders: Callable[[], Sequence[Path]],
        changes: Callable[[], int],
        clock: Clock,
        cards: Callable[[], tuple[CardLoad, ...]] = tuple,
    ) -> None:
        self._folders = folders
        self._changes = changes
        self._cards = cards
        self._clock = clock
        self._jobs: tuple[int, Mapping[JobKey, Path]] | None = None
        self._last: Reading | None = None

    def read(self, cpus: int) -> Load:
        """What is used since the last reading, of so many processors."""
        spent = {key: of_job(folder) for key, folder in self._running().items()}
        known = {key: each for key, each in spent.items() if each is not None}
        now = Reading(self._clock.elapsed(), of_machine(), known)
        last, self._last = self._last, now
        return replace(load_between(last, now, cpus), cards=self._cards())

    def _running(self) -> Mapping[JobKey, Path]:
        """The jobs that run; on an idle machine nobody is asked for them."""
        changes = self._changes()
        if self._jobs is None or self._jobs[0] != changes:
            named = {key_of(folder): folder for folder in self._folders()}
            self._jobs = changes, {key: folder for key, folder in named.items() if key is not None}
        return self._jobs[1]


def load_between(last: Reading | None, now: Reading, cpus: int) -> Load:
    """What was used between two readings; pure."""
    ticks = now.machine.total - last.machine.total if last is not None else 0
    return Load(
        cpus=cpus * _part(now.machine.busy - last.machine.busy, ticks)
        if last is not None and ticks > 0
        else None,
        jobs=tuple(
            JobLoad(key.run_id, key.job, _rate(last, now, key), spent.memory_bytes)
            for key, spent in sorted(now.jobs.items(), key=lambda each: each[0].run_id)
        ),
    )


def _part(busy: int, ticks: int) -> float:
    return min(max(busy / ticks, 0.0), 1.0)  # the kernel's own numbers go back a tick at times


def _rate(last: Reading | None, now: Reading, key: JobKey) -> float | None:
    if last is None or key not in last.jobs or now.at <= last.at:
        return None
    spent = now.jobs[key].cpu_seconds - last.jobs[key].cpu_seconds
    return max(spent, 0.0) / (now.at - last.at)


def of_job(folder: Path) -> Spent | None:
    """What a job has spent; None while it has no processes."""
    if name := container_of(folder):
        return of_group(group_folders(name))
    try:
        shim = read_shim(folder)
    except Damaged:
        return None
    return of_tree(shim.pid) if shim is not None and shim.pid else None
