"""The audit log of a workstation that two people use: who did what, and no secret."""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from dstack_mesh.faults import EXIT_CODES, Fault
from support.eventually import eventually
from support.lab import Daemon, Peer, join_mesh, make_peer, project, said

PORT_FLAGS = ("--listen", "127.0.0.1:0", "--no-mdns")
CANARY = "xyzzy-4711"
ENDLESS = f"""
workflows:
  - name: train
    provider: bash
    env:
      SETTING: {CANARY}
    commands:
      - echo started {CANARY}
      - while true; do sleep 0.05; done
"""


class Lab:
    """ws-2, which made the mesh, and two laptops that may submit."""

    def __init__(self, folder: Path) -> None:
        self.station = make_peer(folder, "ws-2")
        self.ana = make_peer(folder, "ana-laptop", DSTACK_MDNS="0", DSTACK_IDLE="2")
        self.ben = make_peer(folder, "ben-laptop", DSTACK_MDNS="0", DSTACK_IDLE="2")
        self.work = project(folder / "work", ENDLESS)
        join_mesh(self.station, self.ana, self.ben, role="submitter")

    @contextlib.contextmanager
    def running(self) -> Generator[Daemon]:
        with self.station.runner(*PORT_FLAGS) as daemon:
            self.find_again()
            yield daemon

    def find_again(self) -> None:
        address = json.loads(self.owner("status", "--json"))["addresses"][0]
        for laptop in (self.ana, self.ben):
            laptop.env = {**laptop.env, "DSTACK_SEEDS": address}

    def owner(self, *words: str, code: int = 0) -> str:
        """What `dstack-runner …` prints on ws-2."""
        return self.station.tells(*words, code=code).stdout.decode()

    def submit(self) -> str:
        """Ana submits and goes; the run's name."""
        ended = self.ana.dstack("run", "train", "--remote", "-d", "-q", cwd=self.work)
        assert ended.returncode == 0, said(ended)
        name = ended.stdout.decode().strip()
        assert eventually(lambda: b"started" in self.ana.dstack("logs", name).stdout, within=15)
        return name

    def audit(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.owner("audit", "--json", *words, code=code))

    def noted(self, what: str) -> list[Any]:
        return [item for item in self.audit()["items"] if item["what"] == what]

    @property
    def files(self) -> list[Path]:
        return sorted((self.station.home / "state" / "audit").iterdir())


def id_of(peer: Peer) -> str:
    return (peer.home / "keys" / "peer-id").read_text().strip()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_who_did_what_to_whom_is_written_and_survives_a_kill(lab: Lab) -> None:
    ana, ben, root = id_of(lab.ana), id_of(lab.ben), id_of(lab.station)
    with lab.running() as daemon:
        assert eventually(lambda: len(lab.noted("admitted")) == 3, within=10)
        first, second = lab.submit(), lab.submit()
        refusal = lab.ben.dstack("stop", first)
        assert refusal.returncode == EXIT_CODES[Fault.FORBIDDEN], said(refusal)
        assert b"not-your-run" in refusal.stderr
        assert eventually(lambda: lab.noted("refused"), within=20)
        assert lab.noted("stopped") == []
        lab.station.dstack("stop", first, check=True)
        lab.ana.dstack("stop", second, check=True)
        lab.owner("pause")
        (lab.station.home / "policy.yaml").write_text("longest: 4h\n")
        assert eventually(lambda: lab.noted("policy") and lab.noted("lending"), within=10)
        daemon.kill()
        lab.station.dstack("mesh", "revoke", "ben-laptop", "--yes")
        daemon.start()
        assert eventually(lambda: lab.noted("revoked"), within=10)

        admitted = {item["about"]: item for item in lab.noted("admitted")}
        assert admitted.keys() == {ana, ben, root}
        assert (admitted[ana]["name"], admitted[ana]["role"]) == ("ana-laptop", "submitter")
        (refused,) = lab.noted("refused")
        assert (refused["who"], refused["name"], refused["why"]) == (
            ben,
            "ben-laptop",
            "not-your-run",
        )
        assert refused["about"].endswith("RunService/Stop")
        assert [item["who"] for item in lab.noted("given")] == [ana, ana]
        (stopped,) = lab.noted("stopped")
        assert stopped["who"] == "owner"
        (revoked,) = lab.noted("revoked")
        assert revoked["about"] == ben
        found = lab.audit()
        assert found["problems"] == []
        assert found["head"]["line"] == len(found["items"])
        assert lab.audit("--since", "1s")["items"] != found["items"]
        assert "follow each other" in lab.owner("audit")
    for file in lab.files:
        assert CANARY not in file.read_text()
        assert file.stat().st_mode & 0o777 == 0o600


def test_an_altered_and_a_cut_line_are_named_also_without_an_agent(lab: Lab) -> None:
    with lab.running():
        assert eventually(lambda: len(lab.noted("admitted")) == 3, within=10)
        lab.owner("pause")
        assert eventually(lambda: lab.noted("lending"), within=10)
    (path,) = [file for file in lab.files if file.suffix == ".jsonl"]
    whole = path.read_text()
    path.write_text(whole.replace("submitter", "admin", 1))
    assert "was altered" in lab.owner("audit", code=1)
    lines = whole.splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[2:]]))
    (problem,) = lab.audit(code=1)["problems"]
    assert problem == {"file": path.name, "line": 2, "message": "line 2 is missing before it"}
    path.write_text(whole)
    assert lab.audit()["problems"] == []
