"""A whole run is shared out without losing anything that one process would have found."""

import contextlib
import os
import subprocess
import sys
import threading
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support import whole_run
from support.eventually import eventually
from support.lab import ROOT

TROUBLE = """
import socket
import pytest
from support.rounds import seeded

class Kept: pass

def test_that_skips():
    pytest.skip("this part is missing")

def test_that_fails():
    seeded("dice")
    raise AssertionError

def test_that_leaves_a_socket_open():
    kept = Kept()
    kept.itself, kept.socket = kept, socket.socket()
"""


def test_skips_seeds_and_warnings_of_a_shared_out_run_are_heard(tmp_path: Path) -> None:
    (tmp_path / "test_trouble.py").write_text(TROUBLE)
    ran = subprocess.run(
        (
            *(sys.executable, "-m", "pytest", "-q", "-n", "2", str(tmp_path)),
            *("-c", str(ROOT / "pyproject.toml"), "-p", "conftest", "-p", "no:cacheprovider"),
        ),
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name}
        | {"DSTACK_TEST_ALL_PARTS": "1", "PYTHONPATH": str(ROOT / "tests")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 failed, 1 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    assert "this part is missing" in ran.stdout
    assert "dice: DSTACK_CHAOS_SEED=" in ran.stdout
    assert "PytestUnraisableExceptionWarning" in ran.stdout


def test_every_file_and_group_that_is_named_is_there() -> None:
    files = [file for group in whole_run.TOGETHER.values() for file in group]
    files += [first for first in whole_run.FIRST if first not in whole_run.TOGETHER]
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert set(whole_run.NEEDS.values()) == set(whole_run.TOGETHER)


def test_groups_follow_whole_and_the_longest_first() -> None:
    docker, ceph = (whole_run.TOGETHER[group] for group in ("docker", "ceph"))
    files = ("tests/unit/test_names.py", ceph[0], docker[1], "tests/unit/test_a.py", docker[0])
    items = [item(f"{file}::test_{number}") for number in (1, 2) for file in files]
    whole_run.arrange(items)
    groups = [whole_run.group_of(one.nodeid) for one in items]
    short = ["tests/unit/test_names.py", "tests/unit/test_a.py"]
    assert list(dict.fromkeys(groups)) == [*whole_run.FIRST[:2], *short]
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)


def test_a_file_that_needs_an_engine_outside_the_group_that_has_it_is_refused() -> None:
    whole_run.check([item(f"{whole_run.TOGETHER['docker'][0]}::test_it", "docker_lab")])
    with pytest.raises(pytest.UsageError, match="needs docker_lab: name its file"):
        whole_run.check([item("tests/e2e/test_new.py::test_it", "docker_lab")])


def item(nodeid: str, *fixtures: str) -> Any:
    return SimpleNamespace(nodeid=nodeid, fixturenames=fixtures)


def test_whoever_is_to_be_alone_is_and_comes_before_those_who_ask_later(tmp_path: Path) -> None:
    went: list[str] = []

    def go(name: str, alone: bool) -> None:
        with whole_run.turn(tmp_path, alone):
            went.append(name)

    def waits() -> bool:
        with (tmp_path / "asks").open("wb") as asks, contextlib.suppress(BlockingIOError):
            flock(asks, LOCK_EX | LOCK_NB)
            return False
        return True

    timed = threading.Thread(target=go, args=("timed", True))
    later = threading.Thread(target=go, args=("later", False))
    with whole_run.turn(tmp_path, alone=False):
        go("beside", alone=False)
        timed.start()
        eventually(waits, within=10)
        later.start()
        assert went == ["beside"]
    timed.join(10)
    later.join(10)
    assert went == ["beside", "timed", "later"]


SOURCE = pytest.Config.ArgsSource


@pytest.mark.parametrize(
    ("source", "option", "whole"),
    [
        (SOURCE.TESTPATHS, {}, True),
        (SOURCE.ARGS, {}, False),
        (SOURCE.INVOCATION_DIR, {}, False),
        (SOURCE.TESTPATHS, {"keyword": "name"}, False),
        (SOURCE.TESTPATHS, {"markexpr": "docker"}, False),
        (SOURCE.TESTPATHS, {"lf": True}, False),
        (SOURCE.TESTPATHS, {"capture": "no"}, False),
        (SOURCE.TESTPATHS, {"usepdb": True}, False),
        (SOURCE.TESTPATHS, {"collectonly": True}, False),
    ],
)
def test_only_a_run_of_everything_that_nobody_watches_is_shared_out(
    source: Any, option: dict[str, Any], whole: bool
) -> None:
    usual = {"keyword": "", "markexpr": "", "capture": "fd", "usepdb": False, "collectonly": False}
    options = SimpleNamespace(**usual | option)
    config: Any = SimpleNamespace(args_source=source, ArgsSource=SOURCE, option=options)
    config.getoption = option.get
    assert whole_run.is_whole(config) is whole
    config.workerinput = {}
    assert not whole_run.is_whole(config)
