"""A job's environment: what wins, what is kept from it, which Python it gets."""

import importlib.util
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.executor import pythons
from dstack_agent.executor.environment import Site, environment_of, python_of
from dstack_agent.executor.free_ports import free_ports
from dstack_agent.executor.virtualenv import make_virtual_environment
from dstack_mesh.faults import Refused
from dstack_mesh.ids import RunId
from dstack_mesh.machine import Gpu
from dstack_scheduler.names import job_id
from support.launches import spec_of

SITE = Site("ws-2", "10.0.0.7")
V100 = Gpu("GPU-1", "Tesla V100", 16 << 30)
DECLARED = Gpu("SIM-1", "Tesla V100", 16 << 30, simulated=True)
NAMES = st.text("abAB_-.", min_size=1, max_size=6)


def env(folder: Path, *gpus: Gpu, **changes: object) -> dict[str, str]:
    ambient = {"PATH": "/usr/bin:/bin", "HOME": "/home/ana", "SSH_AUTH_SOCK": "/tmp/ssh"}
    return environment_of(spec_of("true", **changes), gpus, SITE, folder, ambient)


def test_a_job_is_told_what_it_is_and_where(tmp_path: Path) -> None:
    seen = env(tmp_path)
    assert seen["RUN_NAME"] == seen["DSTACK_RUN_NAME"] == "lazy-bobcat-1"
    assert seen["JOB_ID"] == seen["DSTACK_JOB_ID"] == job_id(RunId("01run"), 0)
    assert seen["HOSTNAME"] == seen["JOB_HOSTNAME"] == "10.0.0.7"
    assert seen["DSTACK_AGENT"] == "ws-2"
    assert seen["PYTHONUNBUFFERED"] == "1"


def test_variables_win_over_env_and_keep_the_text(tmp_path: Path) -> None:
    seen = env(
        tmp_path, env={"LR": "1", "http_proxy": "p"}, variables={"lr": "0.00002", "a-b": "x"}
    )
    assert (seen["LR"], seen["http_proxy"], seen["A_B"]) == ("0.00002", "p", "x")


def test_a_variable_never_takes_away_a_name_of_the_base(tmp_path: Path) -> None:
    seen = env(tmp_path, variables={"path": "/data", "home": "x", "run_name": "y"})
    assert "/usr/bin" in seen["PATH"]
    assert (seen["HOME"], seen["RUN_NAME"]) == ("/home/ana", "lazy-bobcat-1")


def test_the_workflow_may_replace_a_name_of_the_base(tmp_path: Path) -> None:
    assert env(tmp_path, env={"HOME": "/elsewhere"})["HOME"] == "/elsewhere"


@pytest.mark.parametrize(
    ("cards", "cuda", "nvidia"),
    [((), "", "void"), ((V100,), "GPU-1", "GPU-1"), ((DECLARED,), "SIM-1", "void")],
)
def test_a_job_sees_the_cards_it_was_granted_and_no_others(
    tmp_path: Path, cards: tuple[Gpu, ...], cuda: str, nvidia: str
) -> None:
    seen = env(tmp_path, *cards, env={"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "all"})
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["NVIDIA_VISIBLE_DEVICES"]) == (cuda, nvidia)
    assert seen["DSTACK_GPUS_NUM"] == str(len(cards))


def test_nothing_of_the_person_s_session_reaches_a_job(tmp_path: Path) -> None:
    assert "SSH_AUTH_SOCK" not in env(tmp_path)


def test_a_container_gets_nothing_of_this_machine(tmp_path: Path) -> None:
    seen = env(tmp_path, image="python:3.11")
    assert "PATH" not in seen
    assert (seen["HOME"], seen["USER"], seen["LOGNAME"]) == ("/home/dstack", "dstack", "dstack")


@given(st.dictionaries(NAMES, st.text("xyz ")), st.dictionaries(NAMES, st.text("xyz ")))
def test_every_variable_is_found_under_a_name_a_shell_can_say(
    variables: dict[str, str], given_env: dict[str, str]
) -> None:
    seen = env(Path("/nowhere"), variables=variables, env=given_env)
    for name in variables:
        shell_name = "".join(c if c.isalnum() else "_" for c in name).upper()
        assert seen[shell_name] in variables.values()


def test_python_is_the_agent_s_own_unless_asked(tmp_path: Path) -> None:
    make_virtual_environment(pythons.own(), tmp_path / "venv")
    told = subprocess.run(
        ("/usr/bin/env", "python", "-c", "import sys; print(sys.prefix, sys.version)"),
        env=env(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == f"{tmp_path / 'venv'} {sys.version}\n"


def test_the_python_that_was_asked_for_is_python(tmp_path: Path) -> None:
    prefix = tmp_path / "versions" / "3.99.4"
    (prefix / "bin").mkdir(parents=True)
    fake = prefix / "bin" / "python3.99"
    fake.write_text("#!/bin/sh\necho I am 3.99\n")
    fake.chmod(0o755)
    ambient = {"PATH": "/usr/bin:/bin", "PYENV_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    spec = spec_of("true", python="3.99")
    seen = environment_of(spec, (), SITE, tmp_path, ambient)
    make_virtual_environment(python_of(spec, ambient), tmp_path / "venv")
    for name in ("python", "python3", "python3.99"):
        said = subprocess.run(("/usr/bin/env", name), env=seen, capture_output=True, check=True)
        assert said.stdout == b"I am 3.99\n"


def test_what_a_job_installs_is_its_own(tmp_path: Path) -> None:
    """pip writes below the job's folder, and the agent's own packages stay visible."""
    wheel = tmp_path / "job_thing-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as parts:
        parts.writestr("job_thing.py", "")
        about = "Metadata-Version: 2.1\nName: job-thing\nVersion: 1\n"
        parts.writestr("job_thing-1.dist-info/METADATA", about)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        parts.writestr("job_thing-1.dist-info/WHEEL", tags)
        parts.writestr("job_thing-1.dist-info/RECORD", "job_thing.py,,\n")
    seen = env(tmp_path)
    make_virtual_environment(pythons.own(), tmp_path / "venv")
    install = f"pip install -q --no-deps --no-index {wheel}"
    look = "python -c 'import job_thing, click; print(job_thing.__file__)'"
    ran = subprocess.run(
        ("sh", "-c", f"{install} && {look}"), cwd=tmp_path, env=seen, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).is_relative_to(tmp_path / "venv")
    assert importlib.util.find_spec("job_thing") is None


def test_a_python_that_is_not_here_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        env(tmp_path, python="9.9")
    own = ".".join(map(str, sys.version_info[:3]))
    assert (refused.value.code, own in refused.value.why) == ("no-python", True)


def test_pythons_are_found_where_people_keep_them(tmp_path: Path) -> None:
    places = {
        "pyenv/versions/3.98.2/bin/python3.98": "3.98.2",
        "uv/cpython-3.97.1-linux-x86_64-gnu/bin/python3.97": "3.97.1",
        "bin/python3.96": "3.96",
        "shims/python3.95": None,
        "bin/python3.94-config": None,
    }
    for place in places:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o755)
    ambient = {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join((str(tmp_path / "bin"), str(tmp_path / "shims"), "/nowhere")),
        "PYENV_ROOT": str(tmp_path / "pyenv"),
        "UV_PYTHON_INSTALL_DIR": str(tmp_path / "uv"),
    }
    own = ".".join(map(str, sys.version_info[:3]))
    assert pythons.available(ambient) == (own, "3.98.2", "3.97.1", "3.96")
    found = pythons.find("3.97", ambient)
    assert found is not None and found.version == "3.97.1"
    assert pythons.find("3.9", ambient) is None


def test_ports_are_free_and_told_in_order(tmp_path: Path) -> None:
    ports = free_ports((0, 8123, 0))
    assert ports[1] == 8123
    assert len({*ports}) == 3
    for port in (ports[0], ports[2]):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    site = Site("ws-2", "10.0.0.7", ports)
    seen = environment_of(spec_of("true"), (), site, tmp_path, {"PATH": "/usr/bin", "HOME": "/"})
    assert [seen[f"PORT_{index}"] for index in range(3)] == [str(port) for port in ports]
    assert seen["JOB_PORT_2"] == str(ports[2])
