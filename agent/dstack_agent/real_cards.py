"""The machine's real cards, with the processes of our own jobs told apart from strangers'."""

from collections.abc import Callable
from pathlib import Path

from dstack_agent.executor.tree import descendants
from dstack_agent.executor.watching import read_shim
from dstack_agent.inventory.nvml import NvmlSource, installed_nvml
from dstack_mesh.faults import Damaged
from dstack_mesh.machine import Gpu


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
            self._source = NvmlSource(installed_nvml(), self._pids)
        return self._source.cards()

    def _pids(self) -> frozenset[int]:
        return frozenset(pid for folder in self._folders() for pid in pids_of(folder))


def pids_of(folder: Path) -> set[int]:
    """The processes of a job: its shim's whole tree; none if it has no shim."""
    try:
        shim = read_shim(folder)
    except Damaged:
        return set()
    if shim is None or not shim.pid:
        return set()
    return {shim.pid, *descendants(shim.pid)}
