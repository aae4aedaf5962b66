"""What could be had and what goes on, by the installed commands, of a private agent with a card."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.alone import alone
from support.eventually import eventually
from support.lab import Peer, project
from support.terminal import Terminal

HOLD = "trap 'exit 0' TERM; echo up; while true; do sleep 0.05; done"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("looking"), DSTACK_GPUS="V100:16GB") as peer:
        yield peer


@pytest.fixture(scope="module")
def holder(home: Peer) -> Iterator[str]:
    """A run that has the card, from the first test on that wants one."""
    submitted = home.dstack("run", "bash", "-c", HOLD, "--gpu", "1", "-d", "-q", check=True)
    name = submitted.stdout.decode().strip()
    yield name
    home.dstack("stop", "-x", name, check=True)


def test_an_offer_says_who_could_take_it_now_and_why(home: Peer) -> None:
    shown = home.dstack("offers", "--gpu", "V100:16GB", check=True)
    head, row = shown.stdout.decode().splitlines()
    assert head.split()[:2] == ["AGENT", "WHEN"]
    assert row.split()[:2] == [home.name, "now"]
    assert f"a job like that would go to {home.name}: this machine can run it" in (
        shown.stderr.decode()
    )
    [item] = home.json("offers", "--gpu", "1")["items"]
    assert (item["verdict"], len(item["gives"]), item["reasons"]) == ("now", 1, [])


def test_where_nobody_can_take_it_each_reason_is_told(home: Peer) -> None:
    nobody = home.dstack("offers", "--gpu", "8", check=True)
    assert nobody.stdout == b""
    assert b"Nobody can take it now:" in nobody.stderr
    assert b"The job needs 8 GPUs" in nobody.stderr


def test_offers_start_hold_and_write_down_nothing(home: Peer, holder: str, tmp_path: Path) -> None:
    code = project(
        tmp_path / "code",
        "workflows:\n"
        "  - name: train\n    provider: bash\n    commands: [ls]\n    resources: {gpu: 1}\n"
        "  - name: use\n    provider: bash\n    deps: [other]\n    commands: [ls]\n"
        "  - name: other\n    provider: bash\n    commands: [ls]\n",
    )
    before = home.json("ps", "-a")["items"]
    [busy] = home.json("offers", "train", cwd=code)["items"]
    assert (busy["verdict"], busy["reasons"][0]["code"]) == ("later", "gpu-busy")
    assert holder in busy["reasons"][0]["message"]
    missing = home.dstack("offers", "use", cwd=code, check=True)
    assert b"use cannot start: No run of other is done" in missing.stderr
    assert home.json("ps", "-a")["items"] == before


def test_agents_that_are_not_there_are_told(home: Peer) -> None:
    assert home.dstack("offers", "--agent", "nobody").returncode == 66
    alone_here = home.dstack("offers", "--remote", check=True)
    assert b"There is no other agent" in alone_here.stderr


def frame(terminal: Terminal) -> list[str]:
    """The lines that were drawn last, as far as they have arrived."""
    drawn = terminal.seen.decode().rpartition("\x1b[H")[2]
    return drawn.replace("\x1b[K", "").replace("\x1b[J", "").split("\r\n")


def test_top_draws_in_place_follows_the_window_and_gives_the_terminal_back(
    home: Peer, holder: str
) -> None:
    terminal = Terminal(home, "top", "--interval", "0.5")
    terminal.read_until(holder)
    terminal.read_until("q quits")
    terminal.resize(50, 8)
    eventually(lambda: terminal.read() and len(frame(terminal)) == 8, within=10, every=0.05)
    assert all(len(line) <= 50 for line in frame(terminal))
    terminal.press(b"q")
    assert terminal.end() == 0
    shown = terminal.seen.decode()
    assert shown.count("\x1b[?1049h") == shown.count("\x1b[?25l") == 1
    assert shown.rstrip().endswith("\x1b[?25h\x1b[?1049l")
    assert "\x1b[2J" not in shown
    assert "1/1" in shown and "bash" in shown


def test_ctrl_c_leaves_top_with_0(home: Peer) -> None:
    terminal = Terminal(home, "top")
    terminal.read_until("q quits")
    terminal.press(b"\x03")
    assert terminal.end() == 0
    assert terminal.seen.decode().rstrip().endswith("\x1b[?1049l")


def test_top_without_a_terminal_prints_once(home: Peer, holder: str) -> None:
    shown = home.dstack("top", check=True).stdout
    assert holder.encode() in shown and b"\x1b" not in shown

    def measured() -> Any:
        told = home.json("top")
        [job] = told["jobs"]
        [agent] = told["agents"]
        return (agent, job) if job["cpus_used"] is not None else None

    agent, job = eventually(measured, within=15, every=0.2)
    assert (job["run"], job["status"], len(job["gpus"])) == (holder, "running", 1)
    assert job["cpus_used"] < 2 and job["memory_used_bytes"] > 10**5
    assert 0 <= agent["cpus_used"] <= agent["cpus"]
