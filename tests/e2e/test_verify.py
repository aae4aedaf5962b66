"""`dstack verify`: what is signed of a run, from the command line, with the real agents."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dstack_agent.succession import ask_to_leave
from support.alone import alone
from support.eventually import eventually
from support.lab import DSTACK, Daemon, Peer, invitation, join_mesh, make_peer, project, said

WORKFLOWS = """
workflows:
  - name: prepare
    provider: bash
    commands: [mkdir -p data, echo 1 > data/one, sleep $pause, echo prepared]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands: [cat data/one, echo to stderr >&2]
  - name: silent
    provider: bash
    commands: [sleep 600]
"""


@dataclass
class Lab:
    """Two agents and a laptop that only submits."""

    laptop: Peer
    agents: dict[str, Peer]
    daemons: dict[str, Daemon]
    code: Path


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    ports = {name: free_port() for name in ("ws-1", "ws-2")}
    seeds = ",".join(f"127.0.0.1:{port}" for port in ports.values())
    made = {
        name: make_peer(tmp_path, name, DSTACK_MDNS="0", DSTACK_SEEDS=seeds)
        for name in (*ports, "laptop")
    }
    laptop = made.pop("laptop")
    join_mesh(made["ws-1"], made["ws-2"])
    with invitation(made["ws-1"], "submitter") as (code, addresses):
        laptop.dstack("mesh", "join", code, addresses[0], "--yes", check=True)
    with ExitStack() as stack:
        stack.callback(ask_to_leave, laptop.home / "run" / "private.pid")
        daemons = {
            name: stack.enter_context(peer.runner("--listen", f"127.0.0.1:{ports[name]}"))
            for name, peer in made.items()
        }
        yield Lab(laptop, made, daemons, code_of(tmp_path))


def code_of(folder: Path) -> Path:
    code = project(folder / "code", WORKFLOWS)
    (code / ".dstack" / "variables.yaml").write_text("variables:\n  prepare:\n    pause: 0\n")
    return code


def verified(peer: Peer, run: str = "@") -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the facts."""
    ended = peer.dstack("verify", run, "--json")
    assert ended.returncode in (0, 1), said(ended)
    return ended.returncode, json.loads(ended.stdout)["facts"]


def of(facts: list[dict[str, Any]], what: str) -> list[tuple[str, str]]:
    """Standing and sentence of the facts of a kind."""
    return [(one["standing"], one["sentence"]) for one in facts if one["what"] == what]


def peer_id(peer: Peer) -> str:
    return (peer.home / "keys" / "peer-id").read_text().strip()


def test_a_run_is_proved_everywhere_even_when_its_agent_is_gone(lab: Lab) -> None:
    laptop, ws_2 = peer_id(lab.laptop), peer_id(lab.agents["ws-2"])
    lab.laptop.dstack("run", "train", "--remote=ws-2", cwd=lab.code, check=True)
    code, facts = verified(lab.laptop)
    assert code == 0, facts
    assert of(facts, "specification") == [("proved", f"signed by {laptop}")] * 2
    assert all(f"signed by {ws_2}" in sentence for _, sentence in of(facts, "events"))
    assert of(facts, "log")[0][0] == "open"
    assert of(facts, "artifact")[0][0] == "proved"
    code, there = verified(lab.agents["ws-2"])
    assert code == 0
    assert [standing for standing, _ in of(there, "log")] == ["proved"] * 2
    eventually(lambda: verified(lab.agents["ws-1"])[0] == 0, within=20)
    lab.daemons["ws-2"].kill()
    after = eventually(lambda: if_proved(lab.agents["ws-1"]), within=20)
    assert of(after, "specification") == of(facts, "specification")
    assert of(after, "events") == of(facts, "events")


def if_proved(peer: Peer) -> list[dict[str, Any]]:
    """The facts; none while something is not proved."""
    code, facts = verified(peer)
    return facts if code == 0 else []


def test_a_run_that_was_handed_over_is_signed_by_its_submitter(lab: Lab) -> None:
    submitted = ("run", "train", "--remote", "-d", "--pause", "2")
    lab.laptop.dstack(*submitted, cwd=lab.code, check=True)
    lab.laptop.dstack("wait", "@", cwd=lab.code, check=True)
    code, facts = verified(lab.laptop)
    assert code == 0, facts
    laptop = peer_id(lab.laptop)
    assert len(of(facts, "specification")) == 2
    for standing, sentence in of(facts, "specification"):
        assert standing == "proved"
        assert sentence.startswith(f"signed by {laptop}")


def test_a_submitter_that_died_is_named_by_the_agent_and_did_not_sign(lab: Lab) -> None:
    command = (*DSTACK, "run", "silent", "--remote")
    with lab.laptop.popen(command, cwd=lab.code, stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        run.stderr.readline()  # "… silent on ws-1": it was awarded, and is silent
        run.send_signal(signal.SIGKILL)
    code, facts = verified(lab.agents["ws-1"])
    assert code == 1
    (unsigned,) = of(facts, "specification")
    laptop = peer_id(lab.laptop)
    sentence = f"submitted by {laptop} (as the agent attests), not signed by it"
    assert unsigned == ("absent", sentence)
    lab.agents["ws-1"].dstack("stop", "-x", "@", check=True)


def test_a_member_that_was_revoked_since_is_told_and_the_run_stays_proved(lab: Lab) -> None:
    lab.laptop.dstack("run", "prepare", "--remote", cwd=lab.code, check=True)
    # What the agent that ran it signed is told to the others within a second or so.
    eventually(lambda: verified(lab.agents["ws-1"])[0] == 0, within=10)
    lab.agents["ws-1"].dstack("mesh", "revoke", "laptop", "--yes", check=True)
    code, facts = verified(lab.agents["ws-1"])
    assert code == 0, facts
    (giver,) = of(facts, "giver")
    assert "submitter then" in giver[1]
    assert "revoked since" in giver[1]


def test_this_machine_alone_proves_its_runs_and_notices_every_change(tmp_path: Path) -> None:
    code_folder = code_of(tmp_path)
    with alone(tmp_path) as home:
        home.dstack("run", "train", cwd=code_folder, check=True)
        code, facts = verified(home)
        assert code == 0, facts
        assert {one["standing"] for one in facts} == {"proved"}
        assert home.dstack("verify", "nobody-1").returncode == 66
        database = home.home / "state" / "agent.db"

        def changed(statement: str) -> str:
            """What does not hold after that change, which is taken back."""
            saved = sqlite3.connect(":memory:")
            with sqlite3.connect(database) as there:
                there.backup(saved)
                there.execute(statement)
            code, facts = verified(home)
            with sqlite3.connect(database) as there:
                for table in ("event", "job"):
                    there.execute(f"DELETE FROM {table}")
                    rows = saved.execute(f"SELECT * FROM {table}").fetchall()
                    marks = ", ".join("?" * len(rows[0]))
                    there.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            there.close()
            saved.close()
            assert code == 1, facts
            return "; ".join(
                f"{one['about']}: {one['sentence']}"
                for one in facts
                if one["standing"] in ("wrong", "absent")
            )

        third = "job = 0 AND seq = 3"
        other = "CAST(substr(body, 1, length(body) - 1) || 'x' AS BLOB)"
        said = changed(f"UPDATE event SET body = {other} WHERE {third}")
        assert "job 0, attempt 1: Event 3 does not hold" in said
        said = changed(f"DELETE FROM event WHERE {third}")
        assert "job 0, attempt 1: Event 3 is not there" in said
        said = changed("UPDATE job SET vouched = NULL WHERE job = 1")
        assert "its signature is gone" in said
        assert verified(home)[0] == 0


WATCH = """
import json, sys
from dstack_cli import main
from dstack_cli.output.screen import Screen
seen = []
shown = Screen.job_bytes
async def noting(self, stream, data, now):
    if not seen:
        seen.append("cryptography" in sys.modules)
    await shown(self, stream, data, now)
Screen.job_bytes = noting
code = main.main(["run", "prepare"])
print(json.dumps([*seen, "cryptography" in sys.modules, code]), file=sys.stderr)
"""


def test_nothing_that_signs_is_loaded_before_the_first_line(tmp_path: Path) -> None:
    code = code_of(tmp_path)
    with alone(tmp_path) as home:
        home.dstack("run", "prepare", cwd=code, check=True)
        (code / "more").write_text("so that it runs again")
        with home.popen((sys.executable, "-c", WATCH), cwd=code, stderr=subprocess.PIPE) as run:
            assert run.stderr is not None
            last = run.stderr.read().splitlines()[-1]
        assert json.loads(last) == [False, True, 0]
