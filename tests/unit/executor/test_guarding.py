"""Whatever a specification says, a container gets nothing of the machine but the job's folders."""

import os
import socket
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_agent.executor import container
from dstack_agent.executor.container import Mount
from dstack_agent.executor.guarding import guard
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.ids import Digest
from dstack_scheduler.job import Input
from support.launches import spec_of


class Machine:
    """An agent's home, an engine's socket beside it, and a job's folder within."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.keys = self.home / "keys"
        self.folder = self.home / "jobs" / "01run.0.1"
        self.outside = self.folder / "outside"
        for each in (self.keys, self.folder / "work", self.outside, root / "run"):
            each.mkdir(parents=True)
        (self.keys / "key.pem").write_text("key")
        self.socket = root / "run" / "docker.sock"
        with socket.socket(socket.AF_UNIX) as engine:
            engine.bind(str(self.socket))
        self.shut = (self.home, self.keys, self.socket)

    def refused(self, *sources: Path) -> bool:
        mounts = [Mount(each, PurePosixPath("/data")) for each in sources]
        try:
            guard(mounts, self.folder, self.shut)
        except Refused as refused:
            assert refused.code == "mount-not-allowed"
            return True
        return False


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_job_s_own_folders_are_mounted(machine: Machine) -> None:
    assert not machine.refused(machine.folder / "work", machine.outside / "not-made-yet")


@pytest.mark.parametrize("what", ["socket", "keys", "home", "root", "folder"])
@pytest.mark.parametrize("way", ["direct", "link", "link to its folder", "link to a link", "dots"])
def test_nothing_of_the_machine_is_mounted_by_any_path(
    machine: Machine, what: str, way: str
) -> None:
    path: Path = getattr(machine, what)
    planted = machine.outside / "data"
    match way:
        case "direct":
            planted = path
        case "link":
            planted.symlink_to(path)
        case "link to its folder":
            planted.symlink_to(path.parent)
            planted = planted / path.name
        case "link to a link":
            (machine.outside / "first").symlink_to(path)
            planted.symlink_to("first")
        case _:
            planted = machine.outside / os.path.relpath(path, machine.outside)
    assert machine.refused(planted)


def test_a_key_under_another_name_is_known_by_what_it_is(machine: Machine) -> None:
    """A hard link, or a bind mount, leads out of no folder."""
    linked = machine.outside / "data"
    os.link(machine.socket, linked)
    assert machine.refused(linked)
    innocent = machine.outside / "file"
    innocent.write_text("x")
    assert not machine.refused(innocent)


WORDS = "var run docker.sock proc 1 root .. . ~ etc dev x:/etc sys keys data home dstack x:ro sbin"
PATHS = st.lists(st.sampled_from(["", "workflow", "secrets", *WORDS.split()]), max_size=5).map(
    lambda parts: "/" + "/".join(parts)
)


@settings(max_examples=500, deadline=None)
@given(artifacts=st.lists(PATHS, max_size=3), inputs=st.lists(PATHS, max_size=2))
def test_no_specification_can_name_a_folder_of_the_machine(
    tmp_path_factory: pytest.TempPathFactory, artifacts: list[str], inputs: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "hostile" / "jobs" / "1"
    spec = spec_of(
        "true",
        image="x",
        artifacts=tuple(artifacts),
        inputs=tuple(Input(Digest(bytes(32)), path) for path in inputs),
    )
    try:
        placed = container.mounts(spec, folder, folder / "work")
        guard(placed, folder, ())
    except MeshError:
        return
    for mount in placed:
        assert mount.source.resolve().is_relative_to(folder)
        assert str(mount.target) not in (
            "/",
            "/proc",
            "/sys",
            "/dev",
            "/run/secrets",
            "/etc",
            "/var",
        )


def test_a_specification_has_no_words_for_more_than_that() -> None:
    """Privileged, capabilities, devices, namespaces of the host: there is no field to ask by."""
    fields = set(spec_of("true").__dataclass_fields__)
    words = ("privileged", "cap", "device", "ipc", "pid", "network", "mount", "volume", "bind")
    assert [name for name in fields if any(word in name for word in words)] == []
