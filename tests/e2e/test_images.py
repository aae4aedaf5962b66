"""Images of ours: built by the one command, used by name, with conda in them.

The base is the image with Python that is made here, because no registry is reached; conda is a
stand-in. Takes a minute, so it runs where DSTACK_CHAOS_ROUNDS is set.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import alone
from support.conda_lab import make_conda
from support.docker_lab import DockerLab
from support.lab import ROOT, Peer, project, said
from support.wheels import make_wheel

pytestmark = [
    pytest.mark.docker,
    pytest.mark.may_skip,
    pytest.mark.skipif("DSTACK_CHAOS_ROUNDS" not in os.environ, reason="takes a minute"),
]

WORKFLOWS = """
workflows:
  - name: python
    image: dstack/python:3.11
    commands: ["python -c 'import sys; print(sys.version_info[:2])'", git --version]
  - name: conda
    image: dstack/conda
    commands: [conda create -y -p /opt/conda/envs/nlp /opt/conda/wheels/thing-2-py3-none-any.whl]
    artifacts: [/opt/conda/envs/nlp]
  - name: uses-conda
    image: dstack/conda
    deps: [conda]
    commands: [conda activate nlp, python -c 'import thing; print(thing.VERSION)', thing]
  - name: absent
    image: dstack/cuda:3.8
    commands: ["true"]
"""


@pytest.fixture(scope="module")
def images(
    docker_lab: DockerLab, python_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerLab]:
    """An engine that has two of them."""
    base = ("--arg", f"BASE={python_image}", "--arg", "PACKAGES=", "--arg", "TOOLS=")
    built = subprocess.run(
        (sys.executable, ROOT / "images" / "build.py", "dstack/python:3.11", *base),
        env=os.environ | {"DOCKER_HOST": docker_lab.host, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        check=False,
    )
    assert built.returncode == 0, said(built)
    folder = tmp_path_factory.mktemp("conda")
    make_conda(folder / "conda", "/opt/conda", "/usr/bin/python3")
    make_wheel(folder / "conda" / "wheels", "thing", "2")
    lines = ("FROM dstack/python:3.11", "COPY conda /opt/conda", "RUN chmod -R a+rwX /opt/conda")
    (folder / "Dockerfile").write_text("\n".join(lines))
    docker_lab.docker("build", "-t", "dstack/conda:3.11", str(folder))
    yield docker_lab
    docker_lab.docker("rmi", "-f", "dstack/conda:3.11", "dstack/python:3.11", check=False)


@pytest.fixture(scope="module")
def peer(images: DockerLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("images"), DOCKER_HOST=images.host) as started:
        yield started


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("code") / "p", WORKFLOWS)


def test_an_image_of_ours_is_used_by_its_name(peer: Peer, code: Path) -> None:
    ended = peer.dstack("run", "python", cwd=code)
    assert ended.returncode == 0, said(ended)
    assert ended.stdout.startswith(b"(3, 11)\ngit version ")


def test_a_conda_environment_at_an_absolute_path_is_used_by_another_container(
    peer: Peer, code: Path
) -> None:
    made = peer.dstack("run", "conda", cwd=code)
    assert made.returncode == 0, said(made)
    used = peer.dstack("run", "uses-conda", cwd=code)
    assert used.returncode == 0, said(used)
    assert used.stdout == b"2\n2 /opt/conda/envs/nlp\n"


def test_one_that_was_not_built_is_never_asked_for_at_a_public_registry(
    peer: Peer, code: Path
) -> None:
    ended = peer.dstack("run", "absent", cwd=code)
    assert ended.returncode == 125, said(ended)
    assert b"python images/build.py dstack/cuda:3.8" in ended.stderr, said(ended)
    assert b"--images REGISTRY" in ended.stderr
