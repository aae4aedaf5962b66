"""Artifacts of a running job: seen while it runs, kept as partial where it does not end well."""

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dstack_mesh.home import Home
from support.alone import agent_pid, alone
from support.eventually import eventually
from support.lab import Peer, project, said

WORKFLOWS = """
workflows:
  - name: train
    provider: bash
    commands:
      - echo one > model/a; chmod +x model/a
      - ln -s a model/link
      - while [ ! -e "$GO/next" ]; do sleep 0.05; done
      - echo two > model/deep; echo two >> model/a
      - while [ ! -e "$GO/end" ]; do sleep 0.05; done
      - exit $(cat "$GO/end")
    artifacts: [model]
  - name: use
    provider: bash
    deps: [train]
    commands: [cat model/a]
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Peer]:
    with alone(tmp_path / "p") as peer:
        yield peer


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return project(tmp_path / "code", WORKFLOWS)


@pytest.fixture
def go(tmp_path: Path) -> Path:
    folder = tmp_path / "go"
    folder.mkdir()
    return folder


def train(home: Peer, code: Path, go: Path) -> str:
    """Starts the job and leaves it alone; the name of its run."""
    started = home.dstack("run", "train", "-d", "--env", f"GO={go}", cwd=code, check=True)
    return started.stdout.decode().split()[0]


def files(home: Peer, run: str) -> dict[str, dict[str, Any]]:
    """What `dstack ls -r` says, by path."""
    ended = home.dstack("ls", run, "-r", "--json")
    items: list[dict[str, Any]] = []
    if ended.returncode == 0:
        items = json.loads(ended.stdout)["items"]
    return {item["path"]: item for item in items}


def kill_agent(home: Peer) -> None:
    pid = agent_pid(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: agent_pid(home) is None, within=10)


def test_what_a_job_writes_is_seen_within_five_seconds_and_copied_as_partial(
    home: Peer, code: Path, go: Path, tmp_path: Path
) -> None:
    run = train(home, code, go)
    first = eventually(lambda: files(home, run), within=15)
    assert {path: item["state"] for path, item in first.items()} == {
        "model/a": "partial",
        "model/link": "partial",
    }
    said_at = datetime.fromisoformat(first["model/a"]["saved_at"])
    assert abs((datetime.now(UTC) - said_at).total_seconds()) < 15
    (go / "next").touch()
    began = time.monotonic()
    eventually(lambda: "model/deep" in files(home, run), within=10)
    seen_after = time.monotonic() - began
    assert seen_after < 5 + 1.5, seen_after  # listing itself takes a part of a second
    copied = home.dstack("cp", run, "model", str(tmp_path / "out"), check=True)
    assert b"model is partial, saved" in copied.stderr, said(copied)
    assert (tmp_path / "out" / "a").read_text() == "one\ntwo\n"
    assert (tmp_path / "out" / "a").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "link").readlink() == Path("a")
    table = home.dstack("ls", run, "-t", check=True)
    assert b"partial, saved" in table.stdout
    (go / "end").write_text("0")
    home.dstack("wait", run, check=True)
    assert {item["state"] for item in files(home, run).values()} == {"complete"}
    assert b"partial" not in home.dstack("ls", run, check=True).stderr


def test_a_partial_version_outlives_the_agent_and_goes_on(home: Peer, code: Path, go: Path) -> None:
    run = train(home, code, go)
    before = eventually(lambda: files(home, run), within=15)
    kill_agent(home)
    after = eventually(lambda: files(home, run), within=15)
    assert after["model/a"]["saved_at"] == before["model/a"]["saved_at"]
    (go / "next").touch()
    eventually(lambda: "model/deep" in files(home, run), within=10)
    (go / "end").write_text("0")
    home.dstack("wait", run, check=True)
    assert {item["state"] for item in files(home, run).values()} == {"complete"}


@pytest.mark.parametrize("end", ["fails", "is lost"])
def test_a_job_that_does_not_end_well_keeps_what_is_partial_and_nobody_depends_on_it(
    home: Peer, code: Path, go: Path, end: str
) -> None:
    run = train(home, code, go)
    eventually(lambda: files(home, run), within=15)
    if end == "fails":
        (go / "end").write_text("3")
        (go / "next").touch()
    else:
        kill_agent(home)
        [folder] = Home(home.home).jobs.iterdir()
        os.kill(json.loads((folder / "shim.json").read_text())["pid"], signal.SIGKILL)
    assert home.dstack("wait", run).returncode != 0
    (go / "end").write_text("3")
    (go / "next").touch()
    kept = files(home, run)
    assert {item["state"] for item in kept.values()} == {"partial"}
    refused = home.dstack("run", "use", cwd=code)
    assert refused.returncode == 125
    assert b"no-such-run" in refused.stderr, said(refused)
