"""Workflows with an image through `dstack run`, by an ordinary person, alone and in a mesh."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.alone import agent_pid, alone
from support.docker_lab import DockerLab
from support.eventually import eventually
from support.holding import files_holding
from support.lab import DSTACK, Peer, join_mesh, make_peer, project, said
from support.person import as_person, give, person_id, persons_folder

pytestmark = pytest.mark.docker

WORKFLOWS = """
workflows:
  - name: noise
    image: {image}
    commands:
      - head -c 10000000 /dev/urandom > out/one
      - head -c 10000000 /dev/urandom > out/two
      - cat out/one
      - cat out/two >&2
    artifacts: [out]
  - name: prepare
    image: {image}
    commands: ["echo ${{{{ lr }}}} > /data/abs/lr; echo near > near/file; id -u > near/who"]
    artifacts: [near, /data/abs]
  - name: train
    image: {image}
    depends-on: [prepare]
    working_dir: deep
    env: [FIXED=b c, BARE]
    commands:
      - cat /data/abs/lr near/file
      - printf '%s|%s|%s|%s\\n' "$FIXED" "${{BARE-unset}}" "$RUN_NAME" "$(pwd)"
      - echo mine > mine
  - name: exit
    image: {image}
    commands: ["exit ${{{{ run.args }}}}"]
  - name: image-missing
    image: dstack-lab/nothing:9
    commands: [echo no]
  - name: command-not-found
    image: {image}
    commands: [trian --lr 1]
  - name: out-of-memory
    image: {image}
    commands: [tail /dev/zero]
    resources: {{memory: 64MB}}
  - name: polite
    image: {image}
    commands:
      - trap 'echo bye; exit 9' TERM
      - echo up; while true; do sleep 0.1; done
  - name: deaf
    image: {image}
    commands: ["trap '' TERM; echo up; touch here; while true; do sleep 0.1; done"]
  - name: lines
    image: {image}
    commands:
      - i=0; while [ $i -lt 300 ]; do echo line $i; echo err $i >&2; i=$((i+1)); sleep 0.01; done
      - echo last > out/last; exit 3
    artifacts: [out]
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """A person's home, the home whose agent runs containers, and their code."""

    peer: Peer
    station: Peer
    code: Path
    where: tuple[str, ...] = ()

    def run(self, *words: str, timeout: float = 90) -> subprocess.CompletedProcess[bytes]:
        return self.peer.dstack("run", *words, *self.where, cwd=self.code, timeout=timeout)

    def detached(self, *words: str) -> str:
        """Starts a run; returns its name once it printed "up"."""
        name = self.run(*words, "-d", "-q").stdout.decode().strip()
        following = self.peer.popen((*DSTACK, "logs", "-f", name), stdout=subprocess.PIPE)
        assert following.stdout is not None
        try:
            assert following.stdout.readline() == b"up\n"
        finally:
            following.kill()
            following.wait()
            following.stdout.close()
        return name


@contextmanager
def private(folder: Path, prefix: tuple[str, ...], host: str) -> Generator[tuple[Peer, Peer]]:
    """No mesh: the agent starts by itself."""
    with alone(folder, DOCKER_HOST=host) as peer:
        peer.prefix = prefix
        give(folder)
        yield peer, peer


@contextmanager
def meshed(folder: Path, prefix: tuple[str, ...], host: str) -> Generator[tuple[Peer, Peer]]:
    """A laptop without Docker, and a workstation with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    station = make_peer(folder, "ws", prefix, DSTACK_MDNS="0", DOCKER_HOST=host)
    laptop = make_peer(
        folder,
        "laptop",
        prefix,
        DSTACK_MDNS="0",
        DSTACK_SEEDS=address,
        DOCKER_HOST="unix:///nowhere.sock",
    )
    give(folder)
    join_mesh(station, laptop)
    with station.runner("--listen", address):
        yield laptop, station


@pytest.fixture(scope="module", params=[private, meshed], ids=["private", "mesh"])
def bench(request: pytest.FixtureRequest, docker_lab: DockerLab, busybox: str) -> Iterator[Bench]:
    prefix = as_person(docker_lab.socket.stat().st_gid)
    with persons_folder() as folder:
        code = project(folder / "code", WORKFLOWS.format(image=busybox))
        variables = "variables:\n  prepare:\n    lr: 0.00002\n"
        (code / ".dstack" / "variables.yaml").write_text(variables)
        with request.param(folder, prefix, docker_lab.host) as (peer, station):
            yield Bench(peer, station, code, () if peer is station else ("--remote",))


def test_ten_megabytes_on_each_stream_arrive_byte_for_byte(bench: Bench, tmp_path: Path) -> None:
    ended = bench.run("noise", "-q")
    assert ended.returncode == 0, ended.stderr[-500:]
    give(tmp_path)
    bench.peer.dstack("cp", "@", "out", str(tmp_path / "out"), check=True)
    assert len(ended.stdout) == len(ended.stderr) == 10_000_000
    assert ended.stdout == (tmp_path / "out" / "one").read_bytes()
    assert ended.stderr == (tmp_path / "out" / "two").read_bytes()
    logs = bench.peer.dstack("logs", "@")
    assert (logs.stdout, logs.stderr) == (ended.stdout, ended.stderr)


def test_a_chain_has_its_inputs_variables_environment_and_place(
    bench: Bench, tmp_path: Path
) -> None:
    ended = bench.run("train", "--lr", "0.00003")
    assert ended.returncode == 0, said(ended)
    name = bench.peer.json("ps", "@")["items"][0]["run"]
    expected = f"0.00003\nnear\nb c||{name}|/workflow/deep\n"
    assert ended.stdout.decode() == expected
    items = bench.peer.json("ls", "@", "-r")["items"]
    assert {item["path"] for item in items} == {"/data/abs/lr", "near/file", "near/who"}
    give(tmp_path)
    bench.peer.dstack("cp", "@", "near/who", str(tmp_path / "who"), check=True)
    assert int((tmp_path / "who").read_text()) == person_id()


def test_files_that_it_writes_are_the_persons(bench: Bench) -> None:
    name = bench.detached("deaf")
    [here] = bench.station.home.glob("**/work/here")
    assert here.stat().st_uid == person_id()
    bench.peer.dstack("stop", "-a", name, check=True)


@pytest.mark.parametrize("code", [0, 3, 42, 137, 255])
def test_the_exit_code_is_the_jobs(bench: Bench, code: int) -> None:
    ended = bench.run("exit", str(code))
    assert ended.returncode == code, said(ended)
    assert bench.peer.dstack("wait", "@").returncode == code


@pytest.mark.parametrize(
    ("workflow", "code", "source", "says"),
    [
        ("image-missing", 125, "dstack", "image dstack-lab/nothing:9 is not on the machine"),
        ("command-not-found", 127, "job", "trian: not found"),
        ("out-of-memory", 137, "job", "out of memory"),
    ],
)
def test_what_went_wrong_is_said_by_name(
    bench: Bench, workflow: str, code: int, source: str, says: str
) -> None:
    ended = bench.run(workflow)
    assert ended.returncode == code, said(ended)
    assert says in ended.stderr.decode()
    waited = bench.peer.dstack("wait", "@", "--json")
    told = json.loads(waited.stdout)
    assert waited.returncode == code
    assert told | {"run": ""} == told | {
        "run": "",
        "status": "failed",
        "exit_code": code,
        "source": source,
        "reason": workflow,
    }


@pytest.mark.parametrize(
    ("workflow", "within", "code", "log"),
    [("polite", 5, 9, b"up\nbye\n"), ("deaf", 13, 137, b"up\n")],
)
def test_a_stop_ends_it_within_the_grace(
    bench: Bench, docker_lab: DockerLab, workflow: str, within: float, code: int, log: bytes
) -> None:
    name = bench.detached(workflow)
    began = time.monotonic()
    stopped = bench.peer.dstack("stop", name)
    assert stopped.returncode == 0, said(stopped)
    assert time.monotonic() - began < within
    waited = bench.peer.dstack("wait", name, "--json")
    assert json.loads(waited.stdout)["status"] == "stopped"
    assert waited.returncode == code
    assert bench.peer.dstack("logs", name).stdout == log
    run_id = bench.peer.json("ps", name)["items"][0]["id"]
    eventually(lambda: not docker_lab.containers(f"run.dstack.run={run_id}"), within=5)


@pytest.mark.parametrize("provider", ["process", "container"])
def test_a_value_of_the_environment_is_no_argument_and_in_no_file_of_the_job(
    bench: Bench, busybox: str, provider: str
) -> None:
    """It is in the job, in the agent's database, in the home that submitted it, and, as everything
    of a container, in Docker."""
    canary = f"canary-{os.urandom(8).hex()}"
    what = ("bash",) if provider == "process" else ("docker", busybox)
    command = ("-c", "echo up; while true; do sleep 0.1; done")
    name = bench.detached(*what, "-e", f"API_TOKEN={canary}", *command)
    run_id = bench.peer.json("ps", name)["items"][0]["id"]
    arguments = b"".join(_read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    assert b"while true; do sleep" in arguments, "the arguments of nobody were seen"
    assert canary.encode() not in arguments
    holding = {
        str(path.relative_to(home))
        for home in {bench.station.home, bench.peer.home}
        for path in files_holding(home, canary.encode())
    }
    assert holding - {"state/agent.db", "state/agent.db-wal"} <= {f"state/orders/{run_id}"}
    bench.peer.dstack("stop", "-a", name, check=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def test_a_killed_agent_loses_nothing_of_a_container(bench: Bench) -> None:
    running = bench.peer.popen(
        (*DSTACK, "run", "lines", "-q", *bench.where),
        cwd=bench.code,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # what readline read ahead, communicate would not find
    )
    assert running.stdout is not None
    first = running.stdout.readline()
    pid = agent_pid(bench.station)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    if bench.station is not bench.peer:
        eventually(lambda: agent_pid(bench.station) is None, within=5)
        restarted = bench.station.runner("--listen", str(bench.peer.env["DSTACK_SEEDS"]))
        with restarted:
            check_lines(bench, running, first)
    else:
        check_lines(bench, running, first)


def check_lines(bench: Bench, running: subprocess.Popen[bytes], first: bytes) -> None:
    rest, errors = running.communicate(timeout=60)
    assert running.returncode == 3, errors
    assert first + rest == b"".join(b"line %d\n" % i for i in range(300))
    told = [line for line in errors.splitlines(keepends=True) if line.startswith(b"err ")]
    assert told == [b"err %d\n" % i for i in range(300)]
    assert [item["path"] for item in bench.peer.json("ls", "@", "-r")["items"]] == ["out/last"]
