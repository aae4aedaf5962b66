"""A lab on one bridge: a laptop and two workstations that found each other, and a stranger's."""

import hashlib
import json
import statistics
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import netns
from support.eventually import eventually
from support.lab import DSTACK, ROOT, Peer, invitation, make_peer, project, said

pytestmark = pytest.mark.netns

NAMES = ("laptop", "ws-1", "ws-2", "foreign")

WORKFLOWS = """
workflows:
  - name: prepare
    provider: bash
    commands: [mkdir -p data, echo 1 2 3 > data/numbers]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands:
      - mkdir -p checkpoint
      - cp data/numbers checkpoint/model
      - head -c 3000000 /dev/urandom >> checkpoint/model
      - sha256sum checkpoint/model
    artifacts: [checkpoint]
  - name: exit
    provider: bash
    commands:
      - exit ${{ run.args }}
  - name: clock
    provider: python
    file: clock.py
"""

CLOCK = """import time
for _ in range(40):
    print(time.time(), flush=True)
    time.sleep(0.05)
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """The peers of one mesh, and of another one on the same bridge."""

    laptop: Peer
    ws_1: Peer
    ws_2: Peer
    foreign: Peer
    hosts: dict[str, netns.Host]


def peers(folder: Path, hosts: dict[str, netns.Host]) -> Lab:
    made = {name: make_peer(folder, name, hosts[name].prefix) for name in NAMES}
    return Lab(made["laptop"], made["ws-1"], made["ws-2"], made["foreign"], hosts)


@contextmanager
def running(lab: Lab, *seed: str) -> Generator[None]:
    """The workstations' agents while the block runs: ws-2 has one declared card."""
    with (
        lab.ws_1.runner(),
        lab.ws_2.runner("--gpu", "V100:16GB", *seed),
        lab.foreign.runner("--gpu", "V100:16GB"),
    ):
        yield


def found_agents(lab: Lab) -> dict[str, str]:
    """Names of agents that the laptop sees, and how each was found."""
    listed = lab.laptop.json("agents")["items"]
    return {item["agent"]: item["found_by"] for item in listed if item["agent"] != "laptop"}


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, netns.Host]]:
    if reason := netns.missing():
        pytest.skip(reason)
    with netns.lan(NAMES) as found:
        yield found


@pytest.fixture(scope="module")
def lab(hosts: dict[str, netns.Host], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Peers that joined by code alone: the newcomer finds the invitation by multicast."""
    lab = peers(tmp_path_factory.mktemp("lab"), hosts)
    for founder in (lab.ws_1, lab.foreign):
        founder.dstack("mesh", "create", f"lab-of-{founder.name}", check=True)
    for newcomer, role in ((lab.ws_2, "runner"), (lab.laptop, "submitter")):
        with invitation(lab.ws_1, role) as (code, _):
            newcomer.dstack("mesh", "join", code, "--yes", check=True)
    return lab


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return project(tmp_path / "code", WORKFLOWS, clock_DOT_py=CLOCK)


@pytest.mark.timed
def test_agents_find_each_other_with_no_address_configured(lab: Lab) -> None:
    with running(lab):
        began = time.monotonic()
        eventually(lambda: len(found_agents(lab)) >= 2, within=10)
        took = time.monotonic() - began
        assert found_agents(lab).keys() == {"ws-1", "ws-2"}
        eventually(lambda: knows(lab.ws_1, "ws-2") and knows(lab.ws_2, "ws-1"), within=3)
    assert took <= 3, f"{took:.1f} s"


def knows(peer: Peer, other: str) -> bool:
    return other in {item["agent"] for item in peer.json("agents")["items"]}


def test_a_run_lands_where_the_card_is_and_its_checkpoint_comes_back(
    lab: Lab, code: Path, tmp_path: Path
) -> None:
    with running(lab):
        ran = lab.laptop.dstack("run", "train", "--gpu", "1", cwd=code)
        assert ran.returncode == 0, said(ran)
        assert b"train on ws-2 (only agent with a free GPU" in ran.stderr, said(ran)
        run = lab.laptop.json("ps", "-a")["items"][0]
        train = next(job for job in run["jobs"] if job["workflow"] == "train")
        assert train["agent"] == "ws-2"
        assert len(train["gpus"]) == 1
        lab.laptop.dstack("cp", run["run"], "checkpoint/model", str(tmp_path / "model"), check=True)
    kept = hashlib.sha256((tmp_path / "model").read_bytes()).hexdigest()
    assert kept in ran.stdout.decode()


@pytest.mark.parametrize("number", [0, 3, 137])
def test_the_jobs_exit_code_is_the_commands(lab: Lab, code: Path, number: int) -> None:
    with running(lab):
        ran = lab.laptop.dstack("run", "exit", str(number), "--agent", "ws-2", cwd=code)
        assert ran.returncode == number, said(ran)
        name = lab.laptop.json("ps", "-a")["items"][0]["run"]
        waited = lab.laptop.dstack("wait", name, "--json")
        assert waited.returncode == number
        assert json.loads(waited.stdout)["source"] == "job"


def test_a_printed_line_is_on_the_screen_within_100_ms(lab: Lab, code: Path) -> None:
    with (
        running(lab),
        lab.laptop.popen(
            (*DSTACK, "run", "clock", "--agent", "ws-2"),
            cwd=code,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        assert process.stdout is not None
        lags = [time.time() - float(line) for line in process.stdout]
    assert len(lags) == 40
    assert statistics.median(lags) <= 0.1, f"{statistics.median(lags) * 1000:.0f} ms"


def test_an_agent_of_another_mesh_is_seen_and_used_by_nobody(lab: Lab, code: Path) -> None:
    with running(lab):
        eventually(lambda: len(found_agents(lab)) >= 2, within=10)
        for peer in (lab.laptop, lab.ws_1, lab.ws_2):
            assert "foreign" not in {item["agent"] for item in peer.json("agents")["items"]}
        both = lab.laptop.dstack("run", "exit", "0", "--gpu", "2", "-d", cwd=code, timeout=20)
        assert both.returncode != 0, "two cards are only there if the foreign one counts"
        assert "foreign" not in said(both)
        assert lab.foreign.json("ps", "-a")["items"] == []


def test_without_multicast_one_seed_is_enough(
    tmp_path: Path, code: Path, hosts: dict[str, netns.Host]
) -> None:
    lab = peers(tmp_path / "unicast", hosts)
    with ExitStack() as undo:
        for host in hosts.values():
            host.drop_multicast()
            undo.callback(host.flush)
        seed = f"{hosts['ws-1'].address}:7420"
        for founder in (lab.ws_1, lab.foreign):
            founder.dstack("mesh", "create", f"lab-of-{founder.name}", check=True)
        for newcomer, role in ((lab.ws_2, "runner"), (lab.laptop, "submitter")):
            with invitation(lab.ws_1, role) as (words, addresses):
                newcomer.dstack("mesh", "join", words, addresses[0], "--yes", check=True)
        lab.laptop.env = {"DSTACK_SEEDS": seed}
        with running(lab, "--seed", seed):
            began = time.monotonic()
            eventually(lambda: found_agents(lab).keys() == {"ws-1", "ws-2"}, within=10)
            assert time.monotonic() - began <= 3
            assert "mdns" not in found_agents(lab).values()
            ran = lab.laptop.dstack("run", "train", "--gpu", "1", cwd=code)
            assert ran.returncode == 0, said(ran)
            assert b"train on ws-2 (only agent with a free GPU" in ran.stderr


def test_the_example_runs_on_the_lab(lab: Lab) -> None:
    with running(lab):
        ran = lab.laptop.dstack(
            *("run", "train", "--gpu", "1", "--epochs", "2"), cwd=ROOT / "examples" / "digits"
        )
    assert ran.returncode == 0, said(ran)
    assert b"train on ws-2 (only agent with a free GPU" in ran.stderr
    assert b"accuracy" in ran.stdout
