"""With what packages are installed: what lies there is looked at and never run."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from dstack_agent.environments.tools import pip_for
from dstack_agent.executor.pythons import Interpreter, own
from dstack_agent.executor.virtualenv import make_virtual_environment
from dstack_mesh.faults import Refused


def program(path: Path) -> Path:
    """One that says that it ran."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "$0" >> {path.parent / "ran"}\n')
    path.chmod(0o755)
    return path


def machine(root: Path, *lies: str) -> Interpreter:
    """A Python with files below its prefix."""
    for each in lies:
        path = root / "lib" / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Interpreter("3.11", program(root / "bin" / "python3.11"))


PACKAGES = "python3.11/site-packages"
NEW, OLD = f"{PACKAGES}/pip-24.0.dist-info", f"{PACKAGES}/pip-21.1.dist-info"
BUNDLED = "python3.11/ensurepip/__init__.py"


@pytest.mark.parametrize(
    ("there", "inside", "expected"),
    [
        ((NEW,), (), "for another"),
        (("python3/dist-packages/pip-23.0.egg-info",), (), "for another"),
        ((OLD, BUNDLED), (), "bundled"),
        ((f"{PACKAGES}/pip-cat.dist-info", BUNDLED), (), "bundled"),
        ((NEW,), (OLD,), "inside"),
        ((OLD,), (), "none"),
    ],
)
def test_which_pip_installs_is_seen_without_running_any(
    tmp_path: Path, there: tuple[str, ...], inside: tuple[str, ...], expected: str
) -> None:
    python = machine(tmp_path / "machine", *there)
    environment = tmp_path / "environment"
    machine(environment, *inside)
    target = str(program(environment / "bin" / "python"))
    if expected == "none":
        with pytest.raises(Refused):
            pip_for(python, environment, "", uv_too=False)
    else:
        pip = pip_for(python, environment, "", uv_too=False)
        kinds: Mapping[tuple[str, ...], str] = {
            (target, "-m", "pip", "install"): "bundled" if pip.before else "inside",
            (str(python.path), "-m", "pip", "--python", target, "install"): "for another",
        }
        assert kinds[pip.argv] == expected
    assert not list(tmp_path.rglob("ran"))


def test_the_pip_of_this_python_is_found(tmp_path: Path) -> None:
    make_virtual_environment(own(), tmp_path / "x", alone=True)
    pip = pip_for(own(), tmp_path / "x", os.environ["PATH"], uv_too=False)
    assert pip.name == "pip"
