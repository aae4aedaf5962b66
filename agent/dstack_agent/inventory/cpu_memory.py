"""Processors and memory as jobs can get them: the machine's, within affinity and control groups."""

import os

from dstack_agent.inventory.cgroup import Limits, read_limits
from dstack_mesh.frozen import frozen


@frozen
class CpuMemory:
    """Whole processors; memory in all and available now."""

    cpus: int
    memory_bytes: int
    memory_free_bytes: int


def read_cpu_memory() -> CpuMemory:
    """A reading of this moment; takes about a millisecond."""
    import psutil

    memory = psutil.virtual_memory()
    host = CpuMemory(len(os.sched_getaffinity(0)), memory.total, memory.available)
    return within(host, read_limits())


def within(host: CpuMemory, limits: Limits) -> CpuMemory:
    """What limits leave; part of a processor counts only as the first one."""
    cpus = host.cpus if limits.cpus is None else min(host.cpus, int(limits.cpus))
    total = host.memory_bytes
    if limits.memory_bytes is not None:
        total = min(total, limits.memory_bytes)
    free = min(host.memory_free_bytes, total)
    if limits.memory_left_bytes is not None:
        free = min(free, limits.memory_left_bytes)
    return CpuMemory(max(1, cpus), total, free)
