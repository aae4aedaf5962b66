"""Results across a mesh: what anybody ran is there for everybody, and nobody is waited for."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.lab import Peer, join_mesh, make_peer, project, said

WORKFLOWS = """
workflows:
  - name: prepare
    provider: bash
    commands: [cat numbers > data/numbers, date +%N > data/when]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands: [cat data/* > model/weights]
    artifacts: [model]
"""


@dataclass(frozen=True)
class Lab:
    """A workstation, and two people of its mesh with a clone of one repository each."""

    ana: Peer
    bea: Peer
    hers: Path
    beas: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("reuse")
    code = project(root / "ana" / "digits", WORKFLOWS, numbers="1 2 3\n")
    (root / "bea").mkdir()
    clone = root / "bea" / "digits"
    subprocess.run(("git", "clone", "-q", str(code), str(clone)), check=True)
    url = ("remote", "set-url", "origin", "https://git.example/lab/digits.git")
    subprocess.run(("git", "remote", "add", "origin", "x"), cwd=code, check=True)
    for folder in (code, clone):
        subprocess.run(("git", *url), cwd=folder, check=True)
    station = make_peer(root, "ws-1", ())
    ana, bea = (make_peer(root, name, (), DSTACK_IDLE="30") for name in ("ana-l", "bea-l"))
    join_mesh(station, ana, bea)
    with station.runner("--listen", "127.0.0.1:0", "--no-mdns"):
        port = station.json("agents")["items"][0]["addresses"][0]
        there = {"DSTACK_SEEDS": port, "DSTACK_MDNS": "0"}
        seeded = [Peer(one.name, one.home, (), {**one.env, **there}) for one in (ana, bea)]
        yield Lab(seeded[0], seeded[1], code, clone)


def run(peer: Peer, code: Path, *words: str) -> list[str]:
    ended = peer.dstack("run", *words, cwd=code)
    assert ended.returncode == 0, said(ended)
    return ended.stderr.decode().splitlines()


def test_what_one_person_ran_another_ones_run_takes(lab: Lab) -> None:
    first = run(lab.ana, lab.hers, "train", "--remote")
    assert "prepare on ws-1" in first[0], first

    whole = run(lab.bea, lab.beas, "train", "--remote")
    assert whole[0].startswith("reused ") and "(train), done " in whole[0], whole

    (lab.beas / "numbers").write_text("1 2 4\n")
    changed = run(lab.bea, lab.beas, "train", "--remote")
    assert not [line for line in changed if "reused" in line]
    (lab.beas / "numbers").write_text("1 2 3\n")

    (lab.beas / ".dstack/variables.yaml").write_text("variables: {train: {x: 1}}\n")
    shutil.copy(lab.beas / ".dstack/variables.yaml", lab.hers / ".dstack/variables.yaml")
    prepared = run(lab.ana, lab.hers, "prepare", "--remote")
    assert "prepare on ws-1" in prepared[0], prepared
    taken = run(lab.bea, lab.beas, "train", "--x", "2", "--remote")
    assert "(prepare), done " in taken[0] and "train on ws-1" in taken[1], taken
    lab.bea.dstack("cp", "@", "model", str(lab.beas.parent / "got"), check=True)
    lab.ana.dstack("cp", prepared[0].split()[0], "data", str(lab.hers.parent / "got"), check=True)
    files = [lab.hers.parent / "got" / name for name in ("numbers", "when")]
    expected = b"".join(path.read_bytes() for path in files)
    assert (lab.beas.parent / "got" / "weights").read_bytes() == expected
