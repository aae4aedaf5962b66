"""The benchmarks run: each in its smallest size, where an ssh server can be started."""

import os
import shutil
import subprocess
import sys

import pytest

from support.lab import ROOT


def test_every_benchmark_runs_in_its_smallest_size() -> None:
    missing = [
        tool
        for tool in ("sshd", "rsync", "scp")
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
    if missing or os.getuid() != 0:
        pytest.skip(f"the yardstick needs root and {', '.join(missing) or 'an ssh server'}")
    ran = subprocess.run(
        (sys.executable, "bench/everything.py", "--smoke"),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("DSTACK_")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    titles = ("First line", "Ask of 2 agents", "Idle agent", "1,000 lines", "4 MB", "100 files")
    for title in titles:
        assert title in ran.stdout, ran.stdout
