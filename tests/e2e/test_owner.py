"""The owner of a workstation, with the commands she has: policy, pause, drain, her cards back."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.lab import RUNNER, Daemon, Peer, join_mesh, make_peer, project, said
from support.rounds import rounds

PORT_FLAGS = ("--listen", "127.0.0.1:0", "--no-mdns", "--gpu", "V100:16GB:2")
KEEPING = """
workflows:
  - name: train
    provider: bash
    commands:
      - mkdir -p out
      - trap 'echo saved > out/state; exit 0' TERM
      - echo started
      - while true; do sleep 0.05; done
    artifacts:
      - out
    resources:
      gpu: 1
  - name: stubborn
    provider: bash
    commands:
      - mkdir -p out; echo half > out/state
      - trap '' TERM
      - echo started
      - while true; do sleep 0.05; done
    artifacts:
      - out
    resources:
      gpu: 1
  - name: quick
    provider: bash
    commands:
      - echo done
"""

CHAIN = """
workflows:
  - name: second
    provider: bash
    depends-on: [first]
    commands:
      - echo hi
  - name: first
    provider: bash
    commands:
      - mkdir out; touch out/file; sleep 3
    artifacts:
      - out
"""


class Lab:
    """ws-2 with two declared cards, and ana's laptop that may only submit."""

    def __init__(self, folder: Path) -> None:
        env = {"DSTACK_MDNS": "0", "DSTACK_IDLE": "2"}
        self.station = Peer("ws-2", folder / "ws-2")
        self.laptop = Peer("ana-laptop", folder / "ana-laptop", (), env)
        self.work = folder / "work"

    @contextlib.contextmanager
    def running(self) -> Generator[Daemon]:
        with self.station.runner(*PORT_FLAGS) as daemon:
            self.find_again()
            yield daemon

    def find_again(self) -> None:
        address = self.status()["addresses"][0]
        self.laptop.env = {**self.laptop.env, "DSTACK_SEEDS": address}

    def owner(self, *words: str, code: int = 0) -> str:
        """What `dstack-runner …` says on ws-2."""
        return said(self.station.tells(*words, code=code))

    def status(self) -> Any:
        return json.loads(self.owner("status", "--json"))

    def submit(self, workflow: str) -> str:
        """Ana submits and goes; the run's name."""
        ended = self.laptop.dstack("run", workflow, "--remote", "-d", "-q", cwd=self.work)
        assert ended.returncode == 0, said(ended)
        return ended.stdout.decode().strip()

    def tried(self, workflow: str, *words: str) -> str:
        """What the agents say to a workflow that is not started."""
        plan = self.laptop.dstack(
            "run", workflow, "--remote", *words, "--dry-run", "--json", cwd=self.work
        )
        assert plan.returncode == 0, said(plan)
        (place,) = [one for one in json.loads(plan.stdout)["placement"] if one["agent"] == "ws-2"]
        return f"{place['verdict']}: {place['reason']}"

    def ended(self, run: str) -> Any:
        """How a run ended; waits for it."""
        return json.loads(self.laptop.dstack("wait", run, "--json", timeout=60).stdout)

    def started(self, run: str) -> bool:
        return b"started" in self.laptop.dstack("logs", run).stdout

    @property
    def policy(self) -> Path:
        return self.station.home / "policy.yaml"


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The homes of the lab, and what is worked on there."""
    folder = tmp_path_factory.mktemp("joined")
    peers = (make_peer(folder, "ws-2"), make_peer(folder, "ana-laptop", DSTACK_MDNS="0"))
    join_mesh(*peers, role="submitter")
    project(folder / "work", KEEPING)
    return folder


@pytest.fixture
def lab(joined: Path, tmp_path: Path) -> Lab:
    """As new for each test: its homes are copied, and live elsewhere."""
    shutil.copytree(joined, tmp_path, ignore=shutil.ignore_patterns("run"), dirs_exist_ok=True)
    return Lab(tmp_path)


def test_pause_resume_and_drain_as_an_owner_says_them(lab: Lab) -> None:
    with lab.running() as daemon:
        assert "paused until" in lab.owner("pause", "--until", "2h")
        assert lab.status()["state"] == "paused"
        (seen,) = lab.laptop.json("agents")["items"]
        assert seen["state"] == "paused"
        assert lab.tried("quick").startswith("not-now: The owner has taken the machine back until ")
        daemon.kill()
        daemon.start()
        lab.find_again()
        assert lab.status()["state"] == "paused", "it outlives the agent"
        lab.owner("resume")
        run = lab.submit("train")
        assert eventually(lambda: lab.started(run), within=10)
        assert "draining: 1 job (1 of others) runs" in lab.owner("drain")
        assert lab.tried("quick").startswith("not-now: The agent finishes its jobs")
        assert lab.status()["empty"] is False
        lab.laptop.dstack("stop", run, "-y", check=True)
        assert lab.ended(run)["reason"] == "stopped", "a drain ends nobody's job"
        assert eventually(lambda: lab.status()["empty"], within=10)
        assert "drained: nothing runs" in lab.owner("status")
        assert json.loads(lab.owner("resume", "--json"))["state"] == "alive"
        assert lab.ended(lab.submit("quick"))["exit_code"] == 0


@pytest.mark.timed
def test_a_pause_with_an_end_ends_by_itself(lab: Lab) -> None:
    with lab.running():
        lab.owner("pause", "--until", "2s")
        run = lab.laptop.popen(
            (sys.executable, "-m", "dstack_cli.main", "run", "quick", "--remote"),
            cwd=lab.work,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        _, talk = run.communicate(timeout=30)
        assert run.returncode == 0, talk
        assert b"The owner has taken the machine back until" in talk
        assert lab.status()["state"] == "alive"


def test_pausing_now_asks_borrowers_to_save_and_go(lab: Lab) -> None:
    with lab.running():
        run = lab.submit("train")
        own = lab.station.dstack("run", "train", "--local", "-d", "-q", cwd=lab.work)
        assert own.returncode == 0, said(own)
        assert eventually(lambda: lab.started(run), within=10)
        assert "1 job was asked to save and go" in lab.owner("pause", "--now")
        end = lab.ended(run)
        assert (end["status"], end["source"], end["reason"]) == ("stopped", "dstack", "reclaimed")
        assert end["exit_code"] == 125
        assert kept(lab, run) == "saved"
        (left,) = lab.status()["jobs"]
        assert left["run"] == own.stdout.decode().strip(), "the owner's own job goes on"
        lab.station.dstack("stop", left["run"], "-y", "--abort", check=True)


def kept(lab: Lab, run: str) -> str:
    into = lab.work / "kept"
    lab.laptop.dstack("cp", run, "out/state", str(into), check=True)
    return into.read_text().strip()


@contextlib.contextmanager
def stranger_on(lab: Lab, uuid: str) -> Generator["subprocess.Popen[bytes]"]:
    """A process of somebody else that uses a declared card."""
    cards = lab.station.home / "run" / "cards"
    cards.mkdir(exist_ok=True)
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX);"
        " print(flush=True); time.sleep(120)"
    )
    started: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-c", code, str(cards / uuid)], stdout=subprocess.PIPE
    )
    try:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stdout is not None
        started.stdout.close()


def gone_after(lab: Lab, run: str, began: float) -> float:
    """Seconds until the job's processes are gone and the card is nobody's of ours."""

    def gone() -> bool:
        return run not in [job["run"] for job in lab.status()["jobs"]]

    assert eventually(gone, within=15, every=0.05)
    return time.monotonic() - began


def test_a_stranger_on_a_borrowed_card_gets_it_within_five_seconds(lab: Lab) -> None:
    lab.policy.write_text("reclaim: ask\ngrace: 5s\n")
    spans: list[float] = []
    with lab.running():
        for _ in range(rounds(2)):
            run = lab.submit("train")
            assert eventually(lambda run=run: lab.started(run), within=15)
            (job,) = lab.status()["jobs"]
            (uuid,) = job["gpus"]
            with stranger_on(lab, uuid) as stranger:
                spans.append(gone_after(lab, run, time.monotonic()))
                end = lab.ended(run)
                assert (end["status"], end["reason"]) == ("stopped", "reclaimed")
                assert kept(lab, run) == "saved"
                assert "The owner of ws-2 took GPU" in said(lab.laptop.dstack("attach", run))
                card = next(gpu for gpu in lab.status()["gpus"] if gpu["uuid"] == uuid)
                assert card["holder"].startswith(f"pid {stranger.pid} ")
                assert "gpu-foreign" not in lab.tried("train"), "the other card is still lent"
                assert lab.tried("train", "--gpu", "2").startswith("not-now: GPU ")
            comes_back = lambda: lab.tried("train", "--gpu", "2").startswith("now")  # noqa: E731
            assert eventually(comes_back, within=5)
    print(f"{len(spans)} reclaims: longest {max(spans):.2f} s, mean {sum(spans) / len(spans):.2f}")
    assert max(spans) <= 5


def test_a_borrower_that_does_not_go_is_ended_after_the_grace(lab: Lab) -> None:
    lab.policy.write_text("reclaim: ask\ngrace: 1s\n")
    with lab.running():
        run = lab.submit("stubborn")
        assert eventually(lambda: lab.started(run), within=15)
        (job,) = lab.status()["jobs"]
        with stranger_on(lab, job["gpus"][0]):
            assert gone_after(lab, run, time.monotonic()) <= 5
            assert lab.ended(run)["reason"] == "reclaimed"
            assert kept(lab, run) == "half", "what it had saved before is kept"


def test_a_job_without_a_limit_gets_the_owners(lab: Lab) -> None:
    lab.policy.write_text("longest: 2s\n")
    with lab.running():
        run = lab.submit("train")
        end = lab.ended(run)
        assert (end["status"], end["reason"]) == ("failed", "time-limit")


def test_who_waits_is_not_asked_to_go(lab: Lab) -> None:
    with lab.running():
        run = lab.submit("train")
        assert eventually(lambda: lab.started(run), within=15)
        (job,) = lab.status()["jobs"]
        with stranger_on(lab, job["gpus"][0]):
            time.sleep(2)
            assert [job["run"] for job in lab.status()["jobs"]] == [run]
        lab.laptop.dstack("stop", run, "-y", check=True)


def test_a_policy_is_seen_when_it_changes_and_a_broken_one_changes_nothing(lab: Lab) -> None:
    with lab.running():
        assert lab.tried("quick").startswith("now")
        ana = lab.laptop.json("mesh", "members")["items"]
        ours = next(one["id"] for one in ana if one["expires_at"])
        lab.policy.write_text(f"who: [{ours}]\n")
        assert eventually(lambda: ours in lab.owner("policy"), within=5)
        assert lab.tried("quick").startswith("now")
        lab.policy.write_text("who: [bo-laptop]\n")
        refused = "never: ws-2 is not lent to "
        assert eventually(lambda: lab.tried("quick").startswith(refused), within=5)
        assert "who:       bo-laptop" in lab.owner("policy")
        lab.policy.write_text("who: [bo-laptop]\nhours: nights\n")
        broken = f"{lab.policy}:2:8:"
        assert eventually(lambda: broken in lab.owner("status"), within=5)
        assert broken in lab.owner("policy", code=2)
        assert lab.tried("quick").startswith(refused), "the last good one holds"
    assert f"{lab.policy}:2:8:" in (lab.station.home / "runner.stderr").read_text()


def test_a_detached_run_gets_no_more_than_who_submitted_it(lab: Lab) -> None:
    """The agent drives it over its own socket, where it would otherwise be the owner."""
    two = project(lab.work.parent / "two", CHAIN)
    with lab.running():
        run = lab.laptop.dstack("run", "second", "--remote", "-d", "-q", cwd=two, check=True)
        lab.policy.write_text("who: [bo-laptop]\n")
        name = run.stdout.decode().strip()
        first = lambda: lab.laptop.json("ps", name)["items"][0]["jobs"][0]["status"]  # noqa: E731
        assert eventually(lambda: first() == "done", within=20)
        time.sleep(2)
        jobs = lab.laptop.json("ps", name)["items"][0]["jobs"]
        assert [job["status"] for job in jobs if job["job"] == 1] != ["done"]
        own = lab.station.dstack("run", "quick", "--local", cwd=lab.work)
        assert own.returncode == 0, "the owner herself is not bound by it"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("who: [ana", "1:"),
        ("hours: nights", "1:8:"),
        ("cpus: 2\nlongest: soon", "2:10:"),
        ("\tmemory: 16GB", "1:1:"),
        ("gpu: all", "1:1:"),
    ],
)
def test_no_agent_starts_with_a_broken_policy(tmp_path: Path, text: str, place: str) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    peer = Peer("ws-2", home)
    policy = home / "policy.yaml"
    policy.write_text(text)
    started = subprocess.run(
        (*RUNNER, "start", "--private"),
        env=peer.environment,
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert started.returncode == 64
    told = started.stderr.decode()
    assert f"{policy}:{place}" in told
    assert "fix: " in told
    checked = subprocess.run(
        (*RUNNER, "policy", "--check", str(policy), "--json"),
        env=peer.environment,
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert checked.returncode == 2
    (problem,) = json.loads(checked.stdout)["problems"]
    assert f"{problem['line']}:{problem['column']}:".startswith(place)


def test_orders_need_an_agent(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    peer = Peer("ws-2", home)
    for verb in ("pause", "resume", "drain"):
        ended = subprocess.run(
            (*RUNNER, verb, "--json"),
            env=peer.environment,
            capture_output=True,
            check=False,
            timeout=20,
        )
        assert ended.returncode == 69
        assert json.loads(ended.stdout)["error"]["code"] == "not-running"
