"""An environment that one agent made is an artifact, and another agent of the mesh uses it.

Each agent has a home folder of its own, as on two machines. Conda is a stand-in: no channel is
reached from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.conda_lab import make_conda
from support.eventually import eventually
from support.lab import Peer, join_mesh, make_peer, project, said
from support.wheels import make_wheel

WORKFLOWS = """
workflows:
  - name: virtual
    provider: bash
    commands:
      - python -m venv --without-pip ~/envs/nlp
      - pip --python ~/envs/nlp/bin/python install -q --no-index WHEEL
    artifacts: [~/envs/nlp]
  - name: uses-virtual
    provider: bash
    deps: [virtual]
    commands:
      - . ~/envs/nlp/bin/activate
      - python -c "import sys, thing; print(thing.VERSION, sys.prefix)"
      - thing
      - echo "$HOME"
  - name: conda
    provider: bash
    commands: [conda create -y -p ~/envs/con WHEEL]
    artifacts: [~/envs/con]
  - name: uses-conda
    provider: bash
    deps: [conda]
    commands:
      - conda activate ~/envs/con
      - python -c "import sys, thing; print(thing.VERSION, sys.prefix)"
      - thing
      - echo "$HOME"
  - name: yaml
    provider: bash
    requirements: environment.yml
    commands: ["python -c 'import sys, thing; print(thing.VERSION, sys.base_prefix)'", thing]
  - name: bad-yaml
    provider: bash
    requirements: bad.yaml
    commands: ["true"]
"""


@dataclass(slots=True)
class Lab:
    one: Peer
    two: Peer
    code: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("moved")
    conda = make_conda(folder / "opt" / "conda")
    peers: list[Peer] = []
    for name in ("ws-1", "ws-2"):
        person = folder / "people" / name
        person.mkdir(parents=True)
        told = {"HOME": str(person), "CONDA_EXE": str(conda), "DSTACK_MDNS": "0"}
        peers.append(make_peer(folder, name, (), **told))
    one, two = peers
    wheel = make_wheel(folder / "opt" / "conda" / "wheels", "thing", "2")
    code = project(
        folder / "code",
        WORKFLOWS.replace("WHEEL", str(wheel)),
        environment_DOT_yml="name: x\ndependencies:\n  - thing\n",
        bad_DOT_yaml="dependencies:\n  - nobody-made-this\n",
    )
    join_mesh(one, two)
    with one.runner("--listen", "127.0.0.1:0") as first:
        eventually(lambda: "port " in first.log.read_text(), within=10)
        port = first.log.read_text().partition("port ")[2].split()[0].strip(".,;)")
        with two.runner("--listen", "127.0.0.1:0", "--seed", f"127.0.0.1:{port}"):
            agents = lambda: len(one.json("agents")["items"])  # noqa: E731
            eventually(lambda: agents() == 2, within=20)
            yield Lab(one, two, code)


@pytest.mark.parametrize("kind", ["virtual", "conda"])
def test_an_environment_is_used_on_another_agent(lab: Lab, kind: str) -> None:
    made = lab.one.dstack("run", kind, "--agent", "ws-1", cwd=lab.code)
    assert made.returncode == 0, said(made)
    assert b"absolute path" not in made.stderr, said(made)
    used = lab.one.dstack("run", f"uses-{kind}", "--agent", "ws-2", cwd=lab.code)
    assert used.returncode == 0, said(used)
    imported, script, home = used.stdout.decode().splitlines()
    assert imported == script == f"2 {home}/envs/{'nlp' if kind == 'virtual' else 'con'}"
    assert not home.startswith(lab.one.env["HOME"])


def test_an_environment_yml_is_made_once_and_comes_first(lab: Lab) -> None:
    runs = [lab.one.dstack("run", "yaml", "--agent", "ws-1", cwd=lab.code) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], said(runs[0])
    first, second = (run.stdout.decode().split() for run in runs)
    assert first == second
    assert first[0] == first[2] == "2"
    assert Path(first[1]).parent == lab.one.home / "environments"


def test_conda_s_own_words_say_why_it_failed(lab: Lab) -> None:
    ended = lab.one.dstack("run", "bad-yaml", "--agent", "ws-1", cwd=lab.code)
    assert ended.returncode == 125
    assert b"ResolvePackageNotFound" in ended.stderr, said(ended)
