"""Jobs on the cards of a real driver, and others who use them: run it on a machine that has one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dstack_agent.inventory.nvml import NvmlSource, installed_nvml
from support.eventually import eventually
from support.lab import Peer, join_mesh, make_peer, project, said

pytestmark = pytest.mark.may_skip

WORKFLOWS = """
workflows:
  - name: look
    provider: python
    file: cards.py
  - name: train
    provider: python
    file: cards.py
    args: 60
    artifacts: [out]
"""

CARDS = """
import ctypes, os, signal, sys, time
cuda, count, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
if cuda.cuInit(0) == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
print("CUDA sees", count.value, "of", os.environ["CUDA_VISIBLE_DEVICES"] or "none", flush=True)
if len(sys.argv) > 1:
    def save(number, frame):
        os.makedirs("out", exist_ok=True)
        open("out/saved", "w").write("saved")
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    print("holds the card", flush=True)
    time.sleep(float(sys.argv[1]))
"""


class Lab(NamedTuple):
    """A workstation with real cards, and a laptop that may submit."""

    station: Peer
    laptop: Peer
    code: Path
    cards: tuple[str, ...]

    def run(self, peer: Peer, *words: str) -> str:
        """What a run printed that is done."""
        ended = peer.dstack("run", *words, "--no-reuse", cwd=self.code)
        assert ended.returncode == 0, said(ended)
        return ended.stdout.decode()

    def free(self) -> list[bool]:
        """Which cards are free, as the laptop sees it."""
        items: list[Any] = self.laptop.json("agents")["items"]
        [station] = [one for one in items if one["agent"] == self.station.name]
        return [gpu["free"] for gpu in station["gpus"]]

    def holds(self, run: str) -> bool:
        """Whether a run's job has its card."""
        return b"holds the card" in self.station.dstack("logs", run).stdout


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    source = NvmlSource(installed_nvml())
    found = source.cards()
    if not found or not all(card.free for card in found):
        pytest.skip(f"no free NVIDIA card answers here. {source.problem}")
    folder = tmp_path_factory.mktemp("real")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = {"DSTACK_MDNS": "0", "DSTACK_SEEDS": f"127.0.0.1:{port}"}
    station, laptop = (make_peer(folder, name, (), **env) for name in ("station", "laptop"))
    join_mesh(station, laptop, role="submitter")
    code = project(folder / "code", WORKFLOWS, cards_DOT_py=CARDS)
    (station.home / "policy.yaml").write_text("reclaim: ask\n")
    with station.runner("--listen", f"127.0.0.1:{port}"):
        yield Lab(station, laptop, code, tuple(card.uuid for card in found))


@contextlib.contextmanager
def program(code: Path) -> Generator[None]:
    """A program of the owner's on the first card, which is no job."""
    command = [sys.executable, str(code / "cards.py"), "60"]
    environ = os.environ | {"CUDA_VISIBLE_DEVICES": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, cwd=code) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert process.stdout.readline() == b"holds the card\n"
            yield
        finally:
            process.kill()


def test_a_job_sees_the_cards_that_it_was_granted_and_no_others(lab: Lab) -> None:
    assert any(
        f"CUDA sees 1 of {card}\n" in lab.run(lab.station, "look", "--gpu", "1")
        for card in lab.cards
    )
    assert "CUDA sees 0 of none\n" in lab.run(lab.station, "look")


def test_a_borrower_s_job_gets_at_the_card_from_within_its_walls(lab: Lab) -> None:
    told = lab.run(lab.laptop, "look", "--remote", "--gpu", "1")
    assert any(f"CUDA sees 1 of {card}\n" in told for card in lab.cards)


def test_a_card_is_taken_while_a_job_holds_it_and_free_after_a_stop(lab: Lab) -> None:
    started = lab.station.dstack("run", "train", "--gpu", "1", "-d", "-q", cwd=lab.code, check=True)
    run = started.stdout.decode().strip()
    eventually(lambda: lab.holds(run), within=30)
    assert lab.free().count(False) == 1
    lab.station.dstack("stop", run, check=True)
    eventually(lambda: all(lab.free()), within=10)


def test_a_program_that_is_no_job_takes_a_card_from_a_borrower_who_saves_first(lab: Lab) -> None:
    started = lab.laptop.dstack(
        "run",
        "train",
        "--remote",
        "--gpu",
        str(len(lab.cards)),
        "-d",
        "-q",
        cwd=lab.code,
        check=True,
    )
    run = started.stdout.decode().strip()
    eventually(lambda: lab.holds(run), within=30)
    with program(lab.code):
        lab.laptop.dstack("wait", run)
        eventually(lambda: lab.free()[0] is False, within=5)  # what is shown is 2 s old at most
        [end] = [one for one in lab.laptop.json("ps", "-a")["items"] if one["run"] == run]
        kept = json.dumps(lab.laptop.json("ls", run))
    eventually(lambda: all(lab.free()), within=10)
    assert end["status"] == "stopped", end
    assert "out" in kept and "saved" in kept
