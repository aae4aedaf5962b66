"""What jobs want installed, from the command line, with the real agent and the real installers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_agent.executor import pythons
from support.alone import alone
from support.eventually import eventually
from support.lab import Peer, project, said
from support.wheels import lines, make_wheel

WORKFLOWS = """
workflows:
  - name: use
    provider: python
    file: use.py
    requirements: requirements.txt
  - name: fresh
    provider: python
    file: use.py
    requirements: requirements.txt
    prebuild: force
  - name: alone
    provider: python
    file: use.py
    requirements: requirements.txt
    prebuild: never
  - name: old
    provider: python
    python: "3.8"
    file: use.py
    requirements: requirements.txt
  - name: absent
    provider: bash
    requirements: absent.txt
    commands: ["true"]
  - name: none
    provider: bash
    python: "3.14"
    commands: ["true"]
  - name: slow
    provider: bash
    requirements: slow.txt
    commands: [echo began]
"""

SLOW = """
import pathlib, time
def build_wheel(*_, **__):
    pathlib.Path({began!r}).touch()
    time.sleep(600)
prepare_metadata_for_build_wheel = build_wheel
"""


QUICK = """
import zipfile
def build_wheel(folder, *_, **__):
    name = "slow-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as parts:
        parts.writestr("slow.py", "")
        about = "slow-1.dist-info"
        parts.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\\nName: slow\\nVersion: 1\\n")
        parts.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        parts.writestr(f"{about}/RECORD", "")
    return name
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("env")) as started:
        yield started


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("code")
    make_wheel(root / "wheels", "thing", "2")
    folder = project(root / "p", WORKFLOWS)
    (folder / "requirements.txt").write_text(lines(root / "wheels", "thing"))
    (folder / "absent.txt").write_text(lines(root / "wheels", "nobody-made-this==7"))
    (folder / "use.py").write_text(
        "import sys, thing\nprint(thing.VERSION, sys.version_info[:2])\n"
    )
    return folder


def test_requirements_are_installed_once(peer: Peer, code: Path) -> None:
    first = peer.dstack("run", "use", cwd=code)
    assert first.returncode == 0, said(first)
    assert first.stdout.startswith(b"2 (3, ")
    second = peer.dstack("run", "use", cwd=code, check=True)
    assert second.stdout == first.stdout
    assert len([*(peer.home / "jobs").glob("*/install.log")]) == 1


def test_what_is_installed_anew_is_kept_and_what_never_is_serves_one_job(
    peer: Peer, code: Path
) -> None:
    def installed() -> int:
        return len([*(peer.home / "jobs").glob("*/install.log")])

    peer.dstack("run", "use", cwd=code, check=True)
    before, kept = installed(), {*(peer.home / "environments").glob("*.json")}
    for workflow, more in (("fresh", 1), ("use", 0), ("alone", 1), ("use", 0)):
        assert peer.dstack("run", workflow, cwd=code, check=True).stdout.startswith(b"2 (3, ")
        before += more
        assert installed() == before, workflow
    assert {*(peer.home / "environments").glob("*.json")} == kept


@pytest.mark.skipif(pythons.find("3.8") is None, reason="there is no Python 3.8 here")
def test_a_version_is_that_version(peer: Peer, code: Path) -> None:
    assert peer.dstack("run", "old", cwd=code, check=True).stdout == b"2 (3, 8)\n"


@pytest.mark.skipif(pythons.find("3.14") is not None, reason="there is a Python 3.14 here")
def test_a_version_that_nobody_has_is_refused_with_what_there_is(peer: Peer, code: Path) -> None:
    ended = peer.dstack("run", "none", cwd=code)
    assert b"Python 3.14 is not here; there is " in ended.stdout + ended.stderr, said(ended)
    assert b"uv python install 3.14" in ended.stdout + ended.stderr, said(ended)


def test_why_it_could_not_be_installed_is_why_the_job_failed(peer: Peer, code: Path) -> None:
    ended = peer.dstack("run", "absent", cwd=code)
    assert ended.returncode == 125, said(ended)
    assert b"nobody-made-this" in ended.stderr
    assert b"The requirements were not installed." in ended.stderr


def test_a_stop_ends_the_installer(peer: Peer, code: Path, tmp_path: Path) -> None:
    began = slow_project(code, tmp_path)
    name = peer.dstack("run", "slow", "-dq", cwd=code, check=True).stdout.decode().strip()
    eventually(began.exists, within=30)
    peer.dstack("stop", name, check=True)
    assert b'"status": "stopped"' in peer.dstack("wait", name, "--json").stdout


def slow_project(code: Path, tmp_path: Path) -> Path:
    """A requirement that is built for ever; the file that says that it began."""
    began = tmp_path / "began"
    slow = tmp_path / "slow"
    slow.mkdir()
    system = '[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n'
    (slow / "pyproject.toml").write_text(system)
    (slow / "b.py").write_text(SLOW.format(began=str(began)))
    (code / "slow.txt").write_text(f"--no-index\n{slow}\n")
    return began


def test_what_no_job_uses_is_pruned_by_command(peer: Peer, code: Path) -> None:
    peer.dstack("run", "use", cwd=code, check=True)

    def would_go() -> int:
        return int(json.loads(peer.tells("prune", "--dry-run", "--json").stdout)["environments"])

    wanted = len([*(peer.home / "environments").glob("*.json")])
    eventually(lambda: would_go() == wanted, within=10)
    pruned = json.loads(peer.tells("prune", "--json").stdout)
    assert pruned["environments"] == wanted >= 1
    assert pruned["environment_bytes"] > 0
    assert [each for each in (peer.home / "environments").iterdir() if each.is_dir()] == []
    peer.dstack("run", "use", cwd=code, check=True)


def test_an_agent_that_is_killed_while_it_installs_goes_on_with_the_job(
    tmp_path: Path, code: Path
) -> None:
    with alone(tmp_path / "peer") as peer, peer.runner("--private", "--idle", "0") as runner:
        began = slow_project(code, tmp_path)
        name = peer.dstack("run", "slow", "-dq", cwd=code, check=True).stdout.decode().strip()
        eventually(began.exists, within=30)
        runner.kill()
        (tmp_path / "slow" / "b.py").write_text(QUICK)
        runner.start()
        assert peer.json("wait", name)["status"] == "done"
        assert peer.dstack("logs", name, check=True).stdout == b"began\n"
