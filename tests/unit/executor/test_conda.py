"""`conda activate` in commands, with a stand-in for conda that speaks its protocol."""

import subprocess
from pathlib import Path

import pytest

from dstack_agent.executor import pythons
from dstack_agent.executor.conda import find_conda, hook, hook_of_image
from dstack_scheduler.shell import script
from support.conda_lab import make_conda

ACTIVATE = ("conda activate nlp", "echo $CONDA_PREFIX", "python -c 'import sys; print(sys.prefix)'")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation with an environment called nlp."""
    root = tmp_path_factory.mktemp("opt") / "conda"
    subprocess.run((make_conda(root), "create", "-n", "nlp"), check=True)
    return root


def ambient(root: Path) -> dict[str, str]:
    return {"HOME": "/nowhere", "PATH": "/usr/bin:/bin", "CONDA_EXE": str(root / "bin" / "conda")}


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_activate_works_in_commands_and_lasts_to_the_end(root: Path, shell: str) -> None:
    text = hook(ACTIVATE, ambient(root)) + script(ACTIVATE)
    ran = subprocess.run(
        (shell, "-c", text), env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True
    )
    assert ran.stdout.decode().split() == [str(root / "envs" / "nlp")] * 2


def test_an_environment_that_is_not_there_ends_the_job(root: Path) -> None:
    commands = ("conda activate absent", "echo went on")
    text = hook(commands, ambient(root)) + script(commands)
    ran = subprocess.run(("sh", "-c", text), capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"EnvironmentNameNotFound" in ran.stderr


def test_commands_that_do_not_speak_of_it_pay_nothing(root: Path) -> None:
    assert hook(("python train.py",), ambient(root)) == ""
    assert hook_of_image(("python train.py",)) == ""


def test_what_a_job_sees_nothing_of_is_not_used_for_it(root: Path) -> None:
    assert find_conda(ambient(root)) is not None
    assert find_conda(ambient(root), (root.parent,)) is None


def test_an_image_is_searched_when_it_runs(root: Path) -> None:
    text = hook_of_image(ACTIVATE) + script(ACTIVATE)
    env = {"PATH": "/usr/bin:/bin", "CONDA_DIR": str(root)}
    ran = subprocess.run(("sh", "-c", text), env=env, capture_output=True, check=True)
    assert ran.stdout.decode().split() == [str(root / "envs" / "nlp")] * 2
    without = subprocess.run(
        ("sh", "-c", hook_of_image(("conda",)) + "echo $?"), capture_output=True, check=True
    )
    assert without.stdout == b"0\n"


def test_micromamba_answers_to_conda(tmp_path: Path) -> None:
    program = tmp_path / "micromamba"
    program.write_text("#!/bin/sh\necho 'micromamba() { echo mamba \"$@\"; }'\n")
    program.chmod(0o755)
    commands = ("conda activate x",)
    env = {"HOME": "/nowhere", "PATH": "/nowhere", "MAMBA_EXE": str(program)}
    text = hook(commands, env) + script(commands)
    ran = subprocess.run(("sh", "-c", text), capture_output=True, check=True)
    assert ran.stdout == b"mamba activate x\n"


def test_pythons_of_environments_are_found(root: Path) -> None:
    found = pythons.of_conda(root / "envs" / "nlp")
    assert found is not None
    assert found.version == pythons.own().version
    assert found in pythons.interpreters(ambient(root))
    assert pythons.of_conda(root) is None
