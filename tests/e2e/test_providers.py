"""Providers for real: nodes on two agents that meet, one that fails, a file that is fetched."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.lab import Peer, join_mesh, make_peer, project, said

MEET = """import os, socket, sys
rank, count = int(os.environ["NODE_RANK"]), int(os.environ["DSTACK_NODES_NUM"])
where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    with socket.create_server(where) as server:
        for _ in range(count - 1):
            peer, _ = server.accept()
            print("rank 0 met rank", peer.recv(10).decode(), flush=True)
            peer.sendall(b"0")
            peer.close()
else:
    while True:
        try:
            peer = socket.create_connection(where, timeout=20)
            break
        except ConnectionRefusedError:
            pass
    peer.sendall(str(rank).encode())
    print("rank", rank, "met rank", peer.recv(10).decode(), flush=True)
    assert os.environ["MASTER_JOB_HOSTNAME"] == where[0]
os.makedirs("kept", exist_ok=True)
open(f"kept/{rank}", "w").write(os.environ["DSTACK_AGENT"])
"""

TRAIN = """import os
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: sum {value.item()}", flush=True)
dist.destroy_process_group()
"""

PROVIDERS = """
providers:
  - name: sweep
    commands: [python sweep.py]
"""

SWEEP = """from dstack import Gpu, Job, Provider, Resources

class Sweep(Provider):
    def create_jobs(self):
        card = Resources(cpu=1, gpu=Gpu(count=1, memory="1GB"))
        first = Job(["mkdir -p out; echo 1 > out/first"], artifacts=["out"], resources=card)
        second = Job(
            ["mkdir -p two; cat out/first $REST > two/second"],
            environment={"REST": "/dev/null"}, artifacts=["two"], previous_jobs=[first],
        )
        third = Job([f"cat out/first two/second; echo {self.workflow['word']} {self.args}"],
                    previous_jobs=[second])
        return [third]

Sweep().run()
"""

TORCH = os.environ.get("DSTACK_TEST_TORCH", "")
"""The folder `bin` of a Python that has PyTorch: it takes 3 GB, so the check has none."""

WORKFLOWS = """
workflows:
  - name: meet
    provider: python
    file: meet.py
    nodes: 2
    artifacts: [kept]
    resources: {gpu: 1}
  - name: report
    provider: bash
    depends-on: [meet]
    commands: [ls kept]
  - name: fall
    provider: bash
    nodes: 2
    resources: {gpu: 1}
    commands: ['test $NODE_RANK = 0 && sleep 60; exit 3']
  - name: grid
    provider: sweep
    word: hello
  - name: after
    provider: bash
    depends-on: [grid]
    commands: [cat out/first two/second, echo after]
  - name: many
    provider: bash
    nodes: 3
    resources: {gpu: 1}
    commands: ['true']
"""


FILES = {
    "meet_DOT_py": MEET,
    "train_DOT_py": TRAIN,
    "sweep_DOT_py": SWEEP,
    "_DOT_dstack__providers_DOT_yaml": PROVIDERS,
}


@dataclass(frozen=True, slots=True)
class Lab:
    """Two agents with a card each, and a project."""

    laptop: Peer
    work: Path


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    one, two = free_ports(2)
    path = os.pathsep.join(filter(None, (TORCH, os.environ["PATH"])))
    seeds = f"127.0.0.1:{one},127.0.0.1:{two}"
    first, second = (
        make_peer(folder, name, DSTACK_MDNS="0", DSTACK_SEEDS=seeds, PATH=path)
        for name in ("ws-1", "ws-2")
    )
    join_mesh(first, second, address="127.0.0.1")
    card = "--gpu", "V100:16GB"
    with (
        first.runner("--listen", f"127.0.0.1:{one}", *card),
        second.runner("--listen", f"127.0.0.1:{two}", *card),
    ):
        yield Lab(
            first,
            project(
                folder / "work",
                WORKFLOWS,
                meet_DOT_py=MEET,
                train_DOT_py=TRAIN,
                sweep_DOT_py=SWEEP,
                _DOT_dstack__providers_DOT_yaml=PROVIDERS,
            ),
        )


def test_two_nodes_on_two_agents_meet_and_only_the_masters_artifacts_are_kept(lab: Lab) -> None:
    ended = lab.laptop.dstack("run", "report", cwd=lab.work, check=True)

    assert b"rank 0 met rank 1" in ended.stdout
    assert b"rank 1 met rank 0" in ended.stdout
    run = lab.laptop.json("ps", "-a")["items"][0]
    agents = {job["agent"] for job in run["jobs"] if job["workflow"] == "meet"}
    assert agents == {"ws-1", "ws-2"}
    assert ended.stdout.splitlines()[-1].endswith(b"0")


@pytest.mark.may_skip
@pytest.mark.skipif(not TORCH, reason="DSTACK_TEST_TORCH names no Python with PyTorch")
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_trains_over_gloo(lab: Lab, nodes: int) -> None:
    words = ("run", "torchrun", "train.py", "--nnodes", str(nodes), "--gpu", "1")
    ended = lab.laptop.dstack(*words, cwd=lab.work, timeout=180)

    total = sum(range(1, nodes + 1))
    for rank in range(nodes):
        assert f"rank {rank} of {nodes}: sum {total:.1f}".encode() in ended.stdout, said(ended)
    assert ended.returncode == 0


def test_one_node_that_fails_ends_the_other(lab: Lab) -> None:
    ended = lab.laptop.dstack("run", "fall", cwd=lab.work)
    assert ended.returncode == 3, said(ended)


def test_a_gang_that_does_not_fit_says_why_it_waits_and_holds_nothing(lab: Lab) -> None:
    process = lab.laptop.popen(
        (sys.executable, "-m", "dstack_cli.main", "run", "many"),
        cwd=lab.work,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        text = b""
        while b"1 of 3 nodes" not in text:
            line = process.stderr.readline()
            assert line, text
            text += line
        beside = lab.laptop.dstack(
            "run", "bash", "--gpu", "1", "-c", "echo beside", cwd=lab.work, check=True
        )
        assert b"beside" in beside.stdout
    finally:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()


def test_a_program_makes_three_jobs_that_wait_for_each_other(lab: Lab) -> None:
    ended = lab.laptop.dstack("run", "grid", "--loud", cwd=lab.work, check=True)

    assert ended.stdout.splitlines()[-3:] == [b"1", b"1", b"hello [--loud]"]
    run = lab.laptop.json("ps", "-a")["items"][0]
    assert [job["workflow"] for job in run["jobs"]] == ["", "grid", "grid", "grid"]
    assert run["status"] == "done"


def test_who_depends_on_an_own_provider_waits_for_all_that_it_makes(lab: Lab) -> None:
    ended = lab.laptop.dstack("run", "after", "-d", cwd=lab.work, check=True)
    run = lab.laptop.json("ps", "-a")["items"][0]["run"]
    assert ended.returncode == lab.laptop.dstack("wait", run).returncode == 0
    shown = lab.laptop.dstack("logs", run, check=True).stdout
    assert shown.splitlines().count(b"after") == 1
    record = lab.laptop.json("ps", "-a")["items"][0]
    assert [job["workflow"] for job in record["jobs"]] == ["", "after", "grid", "grid", "grid"]


def test_curl_keeps_what_it_fetched(lab: Lab, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not here (apt-get install curl)")
    (tmp_path / "corpus.txt").write_text("one two")
    url = f"file://{tmp_path}/corpus.txt"
    words = ("run", "curl", url, "-o", "data/corpus.txt", "-a", "data", "--local")
    lab.laptop.dstack(*words, cwd=lab.work, check=True)
    run = lab.laptop.json("ps", "-a")["items"][0]["run"]
    lab.laptop.dstack("cp", run, "data/corpus.txt", str(tmp_path / "back"), check=True)
    assert (tmp_path / "back").read_text() == "one two"
