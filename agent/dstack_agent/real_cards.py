"""The machine's real cards, with the processes of our own jobs told apart from strangers'."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from dstack_agent.executor.docker import CONTAINER
from dstack_agent.executor.tree import descendants
from dstack_agent.executor.watching import read_shim
from dstack_agent.inventory.nvml import NvmlSource, installed_nvml
from dstack_mesh.faults import Damaged
from dstack_mesh.machine import CardLoad, Gpu


class RealCards:
    """Asks NVML, whose library is loaded by the first reading, in the thread that reads.

    Args:
        folders: Folders of the jobs that run now; called in that thread.
    """

    def __init__(self, folders: Callable[[], list[Path]]) -> None:
        self._folders = folders
        self._source: NvmlSource | None = None

    def cards(self) -> tuple[Gpu, ...]:
        if self._source is None:
            self._source = NvmlSource(installed_nvml(), lambda: pids_of_jobs(self._folders()))
        return self._source.cards()

    def loads(self) -> tuple[CardLoad, ...]:
        """What was used of them when they were read last."""
        return self._source.loads if self._source is not None else ()


def pids_of_jobs(folders: Iterable[Path]) -> frozenset[int]:
    """The processes of some jobs."""
    folders = list(folders)
    containers = {name for folder in folders if (name := container_of(folder))}
    trees = {pid for folder in folders for pid in pids_of(folder)}
    return frozenset(trees | (within(containers) if containers else set()))


def container_of(folder: Path) -> str:
    """The id of a job's container; empty if it has none."""
    try:
        return str(json.loads((folder / CONTAINER).read_bytes())["container"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def within(containers: set[str]) -> set[int]:
    """The processes in containers, which are below the engine and not below a shim.

    A process's control group is called after its container, by every engine and cgroup driver.
    """
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                group = (entry / "cgroup").read_text()
            except OSError:  # gone meanwhile, or not ours to look at
                continue
            if any(container in group for container in containers):
                found.add(int(entry.name))
    return found


def pids_of(folder: Path) -> set[int]:
    """The processes of a job outside containers: its shim's whole tree; none without a shim."""
    try:
        shim = read_shim(folder)
    except Damaged:
        return set()
    if shim is None or not shim.pid:
        return set()
    return {shim.pid, *descendants(shim.pid)}
