"""What lies under a job's environment was made by an installer, which may be hostile."""

import os
from pathlib import Path

import pytest

from dstack_agent.executor.pythons import own
from dstack_agent.executor.virtualenv import layer_of, make_virtual_environment


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A kept environment with nothing in it."""
    root = tmp_path / "layer"
    make_virtual_environment(own(), root, alone=True)
    return root


def laid(layer: Path) -> Path:
    root = layer.with_name("job") / "venv"
    make_virtual_environment(own(), root, layer)
    return root


def test_files_of_the_owner_do_not_come_into_a_job_s_environment(layer: Path) -> None:
    owners = layer.with_name("owner")
    (owners / ".ssh").mkdir(parents=True)
    (owners / ".ssh" / "id").write_text("secret")
    for name in ("share", "etc"):
        (layer / name).symlink_to(owners)
    (layer / "data").mkdir()
    (layer / "data" / "out").symlink_to(owners / ".ssh", target_is_directory=True)
    (layer / "data" / "up").symlink_to("../../owner")
    (layer / "data" / "here").symlink_to("../data")
    root = laid(layer)
    assert sorted(path.name for path in root.iterdir()) == ["bin", "data", "lib", "pyvenv.cfg"]
    assert [path.name for path in (root / "data").iterdir()] == ["here"]
    assert (owners / ".ssh" / "id").stat().st_nlink == 1


def test_what_is_no_file_is_neither_read_nor_waited_for(layer: Path) -> None:
    os.mkfifo(layer / "bin" / "pipe")
    os.mkfifo(layer / "pipe")
    (layer / "bin" / "zeros").symlink_to("/dev/zero")
    root = laid(layer)
    assert (root / "bin" / "zeros").is_symlink()
    assert not (root / "bin" / "pipe").exists()
    assert not (root / "pipe").exists()


def test_the_layer_is_what_the_agent_laid_and_not_what_a_job_wrote(layer: Path) -> None:
    root = laid(layer)
    assert layer_of(root) == layer
    with (root / "pyvenv.cfg").open("a") as config:
        config.write("dstack-layer = /root\n")
    assert layer_of(root) == layer
    assert layer_of(layer) is None


def test_nothing_is_written_through_links_that_an_installer_left(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "venv").symlink_to(tmp_path / "owner")
    make_virtual_environment(own(), tmp_path / "job" / "venv")
    (tmp_path / "other" / "venv").mkdir(parents=True)
    (tmp_path / "other" / "venv" / "bin").symlink_to(tmp_path / "owner")
    make_virtual_environment(own(), tmp_path / "other" / "venv")
    assert list((tmp_path / "owner").iterdir()) == []
