"""A whole run is shared out to several processes: what stays together, and what begins first.

Whoever names files, picks tests by a word or looks on gets one process. A whole run goes to
one process more than there are processors, because most tests wait most of the time. A file is
never divided: its tests may share an agent and build on each other. Files that need a part of the
machine of which there is one stay together too. A test that is marked as `timed` waits until no
other one runs, and none begins beside it.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path
from typing import Any

import pytest

TOGETHER = {
    "docker": (
        "tests/chaos/test_canaries.py",
        "tests/e2e/test_agent_docker.py",
        "tests/e2e/test_docker_apps.py",
        "tests/e2e/test_container_gangs.py",
        "tests/e2e/test_container_networks.py",
        "tests/e2e/test_container_ssh.py",
        "tests/e2e/test_container_survival.py",
        "tests/e2e/test_container_walls.py",
        "tests/e2e/test_docker_exec.py",
        "tests/e2e/test_docker_executor.py",
        "tests/e2e/test_docker_runs.py",
        "tests/e2e/test_images.py",
        "tests/e2e/test_old_documents.py",
        "tests/e2e/test_owner_docker.py",
    ),
    "ceph": (
        "tests/contract/test_object_stores.py",
        "tests/e2e/test_remote_trouble.py",
        "tests/e2e/test_remotes.py",
    ),
}
"""Files by the part that is started once for them: an engine would take the other's bridge, and
Ceph takes 15 seconds to start."""

NEEDS = {"docker_lab": "docker", "ceph": "ceph", "s3": "ceph", "s3_or_both": "ceph"}
"""Which fixture is had in which of these groups only."""

FIRST = (
    "docker",
    "ceph",
    "tests/e2e/test_cli_members.py",
    "tests/house/test_house.py",
    "tests/e2e/test_agents_add.py",
    "tests/e2e/test_benchmarks.py",
    "tests/e2e/test_doctor.py",
    "tests/e2e/test_owner.py",
    "tests/e2e/test_cli_mistakes.py",
    "tests/e2e/test_lan.py",
    "tests/chaos/test_kills.py",
    "tests/e2e/test_environments.py",
    "tests/e2e/test_cli_runs.py",
    "tests/e2e/test_apps.py",
    "tests/mesh/test_floods.py",
)
"""Files and groups that take longest, longest first: who begins last must be short."""

ENOUGH = 8
"""Processors: with more, the longest group would only be alone for longer."""

_GROUPS = {file: group for group, files in TOGETHER.items() for file in files}


def group_of(nodeid: str) -> str:
    """What a test stays together with: a group, or the other tests of its file."""
    file = nodeid.partition("::")[0]
    return _GROUPS.get(file, file)


def is_a_part(config: pytest.Config) -> bool:
    """Whether this is a process to which another one gives tests."""
    return hasattr(config, "workerinput")


def is_whole(config: pytest.Config) -> bool:
    """Whether nothing is chosen, and nobody looks on."""
    if is_a_part(config) or config.args_source is not config.ArgsSource.TESTPATHS:
        return False
    failed = config.getoption("lf", False)  # which there is only with pytest's cache
    chosen = config.option.keyword or config.option.markexpr or failed
    watched = config.option.capture == "no" or config.option.usepdb or config.option.collectonly
    return not chosen and not watched


def share_out(config: pytest.Config) -> None:
    """Has a whole run use several processes, unless the command line says how many."""
    if config.option.numprocesses is None:
        config.option.numprocesses = min(len(os.sched_getaffinity(0)), ENOUGH) + 1
    config.option.loadscopereorder = False


def check(items: Sequence[pytest.Item]) -> None:
    """Raises UsageError if a test needs a part that another group has."""
    for item in items:
        needed: Sequence[str] = getattr(item, "fixturenames", ())
        group = group_of(item.nodeid)
        if missing := [one for one in needed if NEEDS.get(one, group) != group]:
            raise pytest.UsageError(
                f"{item.nodeid} needs {missing[0]}: name its file in {__file__}"
            )


def arrange(items: list[pytest.Item]) -> None:
    """Puts the tests in the order in which they are given out: long groups first, each whole."""
    groups = dict.fromkeys((*FIRST, *(group_of(item.nodeid) for item in items)))
    place = {group: number for number, group in enumerate(groups)}
    items.sort(key=lambda item: place[group_of(item.nodeid)])


@contextmanager
def turn(folder: Path, alone: bool) -> Generator[None]:
    """The block runs alone, or beside those that need not be alone.

    Args:
        folder: The same for all processes of a run.
        alone: Whoever asks later waits behind one that is to be alone.
    """
    with (folder / "asks").open("wb") as asks, (folder / "runs").open("wb") as runs:
        flock(asks, LOCK_EX)
        flock(runs, LOCK_EX if alone else LOCK_SH)
        flock(asks, LOCK_UN)
        try:
            yield
        finally:
            flock(runs, LOCK_UN)  # a child that a test left behind would keep it


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each process that has little left the next group."""
    from xdist.scheduler import LoadScopeScheduling  # pyright: ignore[reportMissingTypeStubs]

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
