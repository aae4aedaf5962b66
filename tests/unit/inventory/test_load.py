"""How much of a machine is used, from what the kernel says."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.inventory.cgroup import group_folders
from dstack_agent.inventory.spent import Shares, Spent, of_group, of_machine, of_tree
from dstack_agent.meter import Meter, Reading, load_between, of_job
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobKey
from support.eventually import eventually
from support.machines import SetClock

KEY = JobKey(RunId("01A"), 0, 1)

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
FORKED = f"import os, sys\nif os.fork() == 0:\n exec({BURN!r})\n os._exit(0)\nos.wait()\n"
THREADED = (
    "import subprocess, sys, threading\n"
    "data = b'x' * (50 << 20)\n"
    "wait = [sys.executable, '-c', 'import sys; sys.stdin.read()']\n"
    "one = threading.Thread(target=lambda: subprocess.run(wait))\n"
    "one.start(); print(flush=True); one.join()\n"
)


@contextmanager
def shim(program: str) -> Generator["subprocess.Popen[bytes]"]:
    """A process that starts another one with this program, says a line, and waits."""
    script = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {program!r}])\n"
    process = subprocess.Popen(
        (sys.executable, "-c", script + "print(flush=True)\nsys.stdin.read()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.communicate()


def test_what_ended_below_a_shim_counts_for_its_job() -> None:
    with shim(FORKED) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.3 <= of_tree(process.pid).cpu_seconds < 5


def test_memory_is_that_of_the_processes_and_not_of_the_shim() -> None:
    with shim(THREADED) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the child's
        # While a process forks, its memory is there twice.
        eventually(lambda: 55 < of_tree(process.pid).memory_bytes / 2**20 < 110, within=10)


def test_what_is_gone_has_nothing() -> None:
    process = subprocess.Popen((sys.executable, "-c", ""))
    process.wait()
    assert of_tree(process.pid) == Spent(0.0, 0)


def test_a_container_is_asked_of_its_group_in_every_layout(tmp_path: Path) -> None:
    v2 = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    v1 = "".join(
        f"35 31 0:30 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
        for name in ("cpuacct", "memory")
    )
    systemd, plain = "system.slice/docker-c0ffee.scope", "docker/c0ffee"
    files = {
        f"two/sys/fs/cgroup/{systemd}/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        f"two/sys/fs/cgroup/{systemd}/memory.current": "5000\n",
        f"two/sys/fs/cgroup/{systemd}/memory.stat": "anon 1\ninactive_file 1000\n",
        f"one/sys/fs/cgroup/cpuacct/{plain}/cpuacct.usage": "2500000000\n",
        f"one/sys/fs/cgroup/memory/{plain}/memory.usage_in_bytes": "5000\n",
        f"one/sys/fs/cgroup/memory/{plain}/memory.stat": "total_inactive_file 1000\n",
        "two/mountinfo": v2,
        "one/mountinfo": v1,
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for layout in ("one", "two"):
        root = tmp_path / layout
        assert of_group(group_folders("c0ffee", root, root)) == Spent(2.5, 4000)
        assert of_group(group_folders("other", root, root)) is None


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.integers(1, 256),
)
def test_no_reading_makes_more_than_there_is_or_less_than_nothing(
    busy: int, total: int, before: float, after: float, cpus: int
) -> None:
    first = Reading(10.0, Shares(0, 0), {KEY: Spent(before, 1)})
    load = load_between(first, Reading(12.0, Shares(busy, total), {KEY: Spent(after, 2)}), cpus)
    assert load.cpus is None if total == 0 else load.cpus is not None and 0 <= load.cpus <= cpus
    [job] = load.jobs
    assert job.cpus is not None and job.cpus >= 0 and job.memory_bytes == 2


def test_a_first_reading_says_nothing_of_processors() -> None:
    load = load_between(None, Reading(1.0, Shares(5, 9), {KEY: Spent(4.0, 3)}), 2)
    assert (load.cpus, load.jobs[0].cpus, load.jobs[0].memory_bytes) == (None, None, 3)


def test_half_of_two_processors_is_one() -> None:
    first = Reading(0.0, Shares(100, 1000), {KEY: Spent(1.0, 1)})
    load = load_between(first, Reading(2.0, Shares(300, 1400), {KEY: Spent(4.0, 1)}), 2)
    assert (load.cpus, load.jobs[0].cpus) == (1.0, 1.5)


def test_a_meter_reads_this_machine_and_skips_jobs_without_processes(tmp_path: Path) -> None:
    clock = SetClock()
    folder = tmp_path / "01A.0.1"
    meter = Meter(lambda: [folder], lambda: 0, clock)
    assert meter.read(2).cpus is None
    before = of_machine()
    eventually(lambda: of_machine().total > before.total, within=5)
    clock.time += 2
    load = meter.read(2)
    assert load.cpus is not None and 0 <= load.cpus <= 2
    assert load.jobs == ()
    folder.mkdir()
    (folder / "container.json").write_text('{"container": "no-such-container"}')
    assert of_job(folder) is None


def test_who_runs_is_asked_only_when_that_may_have_changed() -> None:
    asked, strokes = 0, 1

    def folders() -> list[Path]:
        nonlocal asked
        asked += 1
        return []

    meter = Meter(folders, lambda: strokes, SetClock())
    meter.read(2)
    meter.read(2)
    assert asked == 1
    strokes = 2
    meter.read(2)
    assert asked == 2
