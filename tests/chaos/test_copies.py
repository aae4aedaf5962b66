"""What jobs kept is on two agents, again when one is drained or is killed and its home deleted."""

import json
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.lab import Daemon, Peer, join_mesh, make_peer, project
from support.rounds import rounds

NAMES = ("ws-1", "ws-2", "ws-3")

MIB = 1 << 20

SIZE_MIB = int(os.environ.get("DSTACK_COPIES_MIB", "128"))
"""What the large artifact has; the promise is 60 s per GiB, and a death is noticed in 20 s."""

WORKFLOWS = f"""
workflows:
  - name: large
    provider: bash
    commands: [head -c {SIZE_MIB}M /dev/urandom > model/data]
    artifacts: [model]
  - name: small
    provider: bash
    commands: [echo small > out/file, echo more > more/file]
    artifacts: [out, more]
  - name: many
    provider: sweep
"""

PROVIDERS = """
providers:
  - name: sweep
    commands: [python3 .dstack/sweep.py]
"""

JOBS = rounds(2)
KEPT = max(560 // JOBS, 1)
"""Of each job: in all more than the record of a run has room for. 500 jobs that keep one artifact
each with DSTACK_CHAOS_ROUNDS=500."""

SWEEP = f"""
import json, os
jobs = [
    {{
        "name": f"job-{{job}}", "provider": "bash", "resources": {{"cpu": 1, "memory": "10MB"}},
        "commands": [f"for at in $(seq {KEPT}); do echo {{job}} > out/{{job}}-$at/file; done"],
        "artifacts": [f"out/{{job}}-{{at + 1}}" for at in range({KEPT})],
    }}
    for job in range({JOBS})
]
json.dump({{"workflows": jobs}}, open(os.environ["DSTACK_JOBS_FILE"], "w"))
"""


@dataclass
class Lab:
    """Three agents that know each other, and a folder to run workflows from."""

    peers: dict[str, Peer]
    daemons: dict[str, Daemon]
    code: Path

    def run(self, workflow: str, agent: str) -> str:
        """Runs it to its end; the run's name."""
        person = self.peers["ws-1"]
        words = ("run", workflow, "-d", "-q", "--agent", agent)
        run = person.dstack(*words, cwd=self.code, check=True).stdout.decode().strip()
        longest = 120 + 2 * JOBS
        person.dstack("wait", run, "--timeout", str(longest), check=True, timeout=longest + 10)
        return run

    def kept(self, run: str, home: str = "ws-1") -> list[dict[str, Any]]:
        """Its artifacts, as a command in a home sees them."""
        ended = self.peers[home].dstack("ls", run, "-t", "--json")
        return json.loads(ended.stdout)["items"] if ended.returncode == 0 else []

    def names(self, run: str) -> set[str]:
        """Who answers and has all of it."""
        items = self.kept(run)
        having = [set(one["copies"]) - set(one["unreachable"]) for one in items]
        return having[0].intersection(*having) if having else set()

    def digests(self, run: str) -> dict[str, str]:
        """What is in each of its artifacts."""
        return {one["path"]: one["digest"] for one in self.kept(run)}


@contextmanager
def running(folder: Path) -> Generator[Lab]:
    peers = {name: make_peer(folder, name, DSTACK_MDNS="0") for name in NAMES}
    first, *others = peers.values()
    join_mesh(first, *others)
    files = {".dstack__providers_DOT_yaml": PROVIDERS, ".dstack__sweep_DOT_py": SWEEP}
    lab = Lab(peers, {}, project(folder / "code", WORKFLOWS, **files))
    with ExitStack() as stack:
        for name, peer in peers.items():
            seeds = [word for one in lab.daemons.values() for word in ("--seed", address(one))]
            flags = ("--listen", "127.0.0.1:0", "--no-mdns", *seeds)
            lab.daemons[name] = stack.enter_context(peer.runner(*flags))
        yield lab


def address(daemon: Daemon) -> str:
    """Where an agent listens."""
    return f"127.0.0.1:{daemon.log.read_text().split('port ')[-1].split()[0].rstrip('.,;')}"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running(tmp_path_factory.mktemp("copies")) as made:
        yield made


def test_who_is_drained_hands_over_first(lab: Lab) -> None:
    run, leaving = lab.run("small", "ws-2"), lab.peers["ws-2"]
    eventually(lambda: len(lab.names(run)) == 2, within=60, every=0.3)
    leaving.tells("drain")
    eventually(lambda: {"ws-1", "ws-3"} <= lab.names(run), within=60, every=0.3)
    leaving.tells("resume")


def test_what_a_killed_and_deleted_agent_kept_is_readable_and_twice_again(
    lab: Lab, tmp_path: Path
) -> None:
    """1 GiB with DSTACK_COPIES_MIB=1024."""
    runs = [lab.run("large", "ws-3"), lab.run("small", "ws-3")]
    began = time.monotonic()
    for run in runs:
        eventually(lambda run=run: len(lab.names(run)) >= 2, within=60, every=0.3)
    print(f"twice {time.monotonic() - began:.1f} s after the end of the runs")
    digests = {run: lab.digests(run) for run in runs}
    [shown] = [one for one in lab.peers["ws-1"].json("ps", "-a")["items"] if one["run"] == runs[0]]
    assert shown["copies"] == 2
    lab.daemons["ws-3"].kill()
    shutil.rmtree(lab.peers["ws-3"].home)
    began = time.monotonic()
    for run in runs:
        eventually(lambda run=run: {"ws-1", "ws-2"} <= lab.names(run), within=90, every=0.5)
    took = time.monotonic() - began
    print(f"{SIZE_MIB} MiB are twice again {took:.1f} s after the death")
    assert took <= 25 + 60 * SIZE_MIB / 1024
    for run in runs:
        out = tmp_path / run
        lab.peers["ws-1"].dstack("cp", run, ".", str(out), check=True, timeout=120)
        assert lab.digests(run) == digests[run]
    assert (tmp_path / runs[0] / "data").stat().st_size == SIZE_MIB * MIB


def test_what_very_many_jobs_kept_is_told_and_read_when_who_ran_and_who_drove_them_are_dead(
    lab: Lab, tmp_path: Path
) -> None:
    run = lab.run("many", "ws-1")
    began = time.monotonic()
    eventually(lambda: len(lab.names(run)) >= 2, within=60 + 2 * JOBS, every=1)
    print(f"{JOBS * KEPT} artifacts are twice {time.monotonic() - began:.1f} s after their run")
    lab.peers["ws-1"].dstack("tag", run, "best", cwd=lab.code, check=True)
    left = lab.peers["ws-2"]
    eventually(lambda: "best" in left.dstack("tags", cwd=lab.code).stdout.decode(), within=10)
    lab.daemons["ws-1"].kill()
    told = {one["path"] for one in lab.kept(run, "ws-2")}
    assert told >= {f"out/{job}-{at + 1}" for job in range(JOBS) for at in range(KEPT)}
    left.dstack("cp", ":best", ".", str(tmp_path / "out"), cwd=lab.code, check=True, timeout=300)
    assert len({path.read_text() for path in (tmp_path / "out").rglob("file")}) == JOBS
