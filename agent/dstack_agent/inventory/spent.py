"""What processes have spent since they began: processor seconds, and memory that they have now.

A job's processes are found from its shim down, by what each says of its children, and a container's
are asked of its control group: nothing else of the machine is looked at.
"""

import os
from collections.abc import Iterable, Iterator
from functools import cache

from dstack_agent.executor.tree import descendants
from dstack_agent.inventory.cgroup import GroupFolder, number_in, used_memory
from dstack_mesh.frozen import frozen

# Read every two seconds on an idle machine: pathlib would double what it costs.
# ruff: noqa: PTH123, PTH208

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@frozen
class Spent:
    """Processor seconds since the beginning, and bytes of memory now."""

    cpu_seconds: float
    memory_bytes: int


@frozen
class Shares:
    """Ticks of some processors since the machine started: those in which they worked, and all."""

    busy: int
    total: int


def of_machine() -> Shares:
    """Of the processors that this process may use."""
    allowed = os.sched_getaffinity(0)
    busy = total = 0
    with open("/proc/stat", "rb") as file:
        for line in file:
            if not line.startswith(b"cpu"):
                break
            name, *fields = line.split()
            if name != b"cpu" and int(name[3:]) in allowed:
                ticks = [int(field) for field in fields[:8]]  # guests are counted as users already
                total += sum(ticks)
                busy += sum(ticks) - ticks[3] - ticks[4]
    return Shares(busy, total)


def of_tree(shim: int) -> Spent:
    """Of everything below a shim. What ended counts too: whoever waited for it has its ticks."""
    ticks = pages = 0
    for pid, fields in _tree(shim):
        ticks += int(fields[13]) + int(fields[14])
        if pid != shim:
            ticks += int(fields[11]) + int(fields[12])
            pages += int(fields[21])
    return Spent(ticks * TICK_SECONDS, pages * PAGE_BYTES)


def of_group(folders: Iterable[GroupFolder]) -> Spent | None:
    """Of everything in a control group; None if it does not say."""
    seconds: float | None = None
    memory: int | None = None
    for folder, version, controllers in folders:
        if version == 2 and (spent := number_in(folder / "cpu.stat", "usage_usec")) is not None:
            seconds = spent / 10**6
        elif (spent := number_in(folder / "cpuacct.usage")) is not None:
            seconds = spent / 10**9
        if "memory" in controllers and (used := used_memory(folder, version)) is not None:
            memory = used
    return Spent(seconds, memory) if seconds is not None and memory is not None else None


def _tree(root: int) -> Iterator[tuple[int, list[bytes]]]:
    """A process and all below it, each with what the kernel says of it after its name."""
    if not _tells_children():
        for pid in (root, *descendants(root)):
            if (fields := _stat(pid)) is not None:
                yield pid, fields
        return
    heads, seen = [root], {root}
    while heads:
        pid = heads.pop()
        fields = _stat(pid)
        if fields is not None:
            yield pid, fields
            fresh = [child for child in _children(pid, int(fields[17])) if child not in seen]
            seen.update(fresh)
            heads += fresh


def _stat(pid: int) -> list[bytes] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:  # it is gone
        return None


def _children(pid: int, threads: int) -> list[int]:
    """Each thread has those that it started itself."""
    found: list[int] = []
    try:
        for thread in [pid] if threads == 1 else os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:  # it, or a thread of it, is gone
        return found
    return found


@cache
def _tells_children() -> bool:
    """Whether this kernel says it at all."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110
