"""What control groups leave, in every layout that they come in."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.inventory.cgroup import (
    Limits,
    parse_cpu_max,
    parse_groups,
    parse_mounts,
    read_limits,
)
from dstack_agent.inventory.cpu_memory import CpuMemory, read_cpu_memory, within

GIB = 2**30
V2_MOUNT = "30 24 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "35 31 0:30 {root} /sys/fs/cgroup/{name} rw,nosuid - cgroup cgroup rw,{controllers}\n"
UNLIMITED = "9223372036854771712\n"


class Host:
    """A file system with the files that the kernel would show."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.write("proc/mountinfo", "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def limits(self) -> Limits:
        return read_limits(self.proc, self.root)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_version_2_takes_the_smallest_limit_on_the_way_up(host: Host) -> None:
    host.write("proc/cgroup", "0::/user.slice/agent.scope\n")
    host.write("proc/mountinfo", V2_MOUNT.format(root="/"))
    group = "sys/fs/cgroup/user.slice"
    host.write(f"{group}/memory.max", f"{8 * GIB}\n")
    host.write(f"{group}/memory.current", f"{3 * GIB}\n")
    host.write(f"{group}/memory.stat", f"anon 5\ninactive_file {GIB}\nfile 7\n")
    host.write(f"{group}/cpu.max", "400000 100000\n")
    host.write(f"{group}/agent.scope/memory.max", "max\n")
    host.write(f"{group}/agent.scope/cpu.max", "250000 100000\n")
    assert host.limits() == Limits(2.5, 8 * GIB, 6 * GIB)


def test_version_1_takes_the_smallest_limit_on_the_way_up(host: Host) -> None:
    host.write("proc/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n")
    host.write(
        "proc/mountinfo",
        V1_MOUNT.format(root="/", name="memory", controllers="memory")
        + V1_MOUNT.format(root="/", name="cpu,cpuacct", controllers="cpu,cpuacct"),
    )
    memory, cpu = "sys/fs/cgroup/memory", "sys/fs/cgroup/cpu,cpuacct"
    host.write(f"{memory}/memory.limit_in_bytes", UNLIMITED)
    host.write(f"{memory}/docker/memory.limit_in_bytes", f"{6 * GIB}\n")
    host.write(f"{memory}/docker/memory.usage_in_bytes", f"{5 * GIB}\n")
    host.write(f"{memory}/docker/memory.stat", f"total_inactive_file {GIB}\n")
    host.write(f"{memory}/docker/abc/memory.limit_in_bytes", f"{4 * GIB}\n")
    host.write(f"{memory}/docker/abc/memory.usage_in_bytes", f"{GIB}\n")
    host.write(f"{cpu}/cpu.cfs_quota_us", "-1\n")
    host.write(f"{cpu}/docker/abc/cpu.cfs_quota_us", "150000\n")
    host.write(f"{cpu}/docker/abc/cpu.cfs_period_us", "100000\n")
    assert host.limits() == Limits(1.5, 4 * GIB, 2 * GIB)


def test_a_container_sees_its_own_group_as_the_mounts_top(host: Host) -> None:
    """Without a namespace for groups, the path is the host's, and only its end is mounted."""
    host.write("proc/cgroup", "4:memory:/docker/abc/inner\n")
    mount = V1_MOUNT.format(root="/docker/abc", name="memory", controllers="memory")
    host.write("proc/mountinfo", mount)
    host.write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    host.write("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", f"{GIB}\n")
    assert host.limits().memory_bytes == GIB


@pytest.mark.parametrize("path", ["/../../outside", "/elsewhere"])
def test_a_path_that_a_namespace_hides_still_reads_the_top(host: Host, path: str) -> None:
    host.write("proc/cgroup", f"0::{path}\n")
    host.write("proc/mountinfo", V2_MOUNT.format(root="/mine"))
    host.write("sys/fs/cgroup/memory.max", f"{GIB}\n")
    host.write("outside/memory.max", "1\n")
    assert host.limits().memory_bytes == GIB


def test_a_hybrid_reads_both_versions(host: Host) -> None:
    host.write("proc/cgroup", "4:memory:/one\n1:name=systemd:/x\n0::/two\n")
    host.write(
        "proc/mountinfo",
        V1_MOUNT.format(root="/", name="memory", controllers="memory")
        + V2_MOUNT.format(root="/").replace("cgroup rw", "cgroup/unified rw"),
    )
    host.write("sys/fs/cgroup/memory/one/memory.limit_in_bytes", f"{3 * GIB}\n")
    host.write("sys/fs/cgroup/unified/two/cpu.max", "100000 100000\n")
    assert host.limits() == Limits(1.0, 3 * GIB, 3 * GIB)


def test_no_groups_and_no_limits_are_no_limits(host: Host) -> None:
    assert host.limits() == Limits()
    host.write("proc/cgroup", "0::/\n")
    host.write("proc/mountinfo", V2_MOUNT.format(root="/"))
    assert host.limits() == Limits()
    host.write("sys/fs/cgroup/memory.max", "max\n")
    host.write("sys/fs/cgroup/cpu.max", "max 100000\n")
    assert host.limits() == Limits()


def test_usage_above_a_limit_leaves_nothing(host: Host) -> None:
    host.write("proc/cgroup", "0::/\n")
    host.write("proc/mountinfo", V2_MOUNT.format(root="/"))
    host.write("sys/fs/cgroup/memory.max", f"{GIB}\n")
    host.write("sys/fs/cgroup/memory.current", f"{2 * GIB}\n")
    assert host.limits().memory_left_bytes == 0


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("max 100000\n", None),
        ("150000 100000", 1.5),
        ("50000 100000", 0.5),
        ("", None),
        ("10", None),
        ("10 0", None),
        ("x y", None),
    ],
)
def test_version_2_writes_processors_as_a_quota(text: str, cpus: float | None) -> None:
    assert parse_cpu_max(text) == cpus


@given(st.text())
def test_nothing_in_these_files_makes_reading_fail(text: str) -> None:
    parse_groups(text)
    parse_mounts(text)
    parse_cpu_max(text)


def test_a_machine_is_what_limits_leave_of_it() -> None:
    box = CpuMemory(8, 64 * GIB, 50 * GIB)
    assert within(box, Limits()) == box
    assert within(box, Limits(2.9, 16 * GIB, 4 * GIB)) == CpuMemory(2, 16 * GIB, 4 * GIB)
    assert within(box, Limits(0.5)) == CpuMemory(1, 64 * GIB, 50 * GIB)
    assert within(box, Limits(99.0, 2**50, 2**50)) == box
    assert within(box, Limits(memory_bytes=GIB)).memory_free_bytes == GIB


def test_this_machine_can_be_read() -> None:
    seen = read_cpu_memory()
    assert seen.cpus >= 1
    assert 0 < seen.memory_free_bytes <= seen.memory_bytes
