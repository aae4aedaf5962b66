"""Images of our own: one table, a Dockerfile a row, and no public registry for their names."""

import subprocess
import sys
from pathlib import Path

import pytest

from dstack_scheduler.images import IMAGES, is_ours, own_image, own_images

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("dstack/python:3.8", "dstack/python:3.8"),
        ("dstack/conda", "dstack/conda:3.11"),
        ("dstack/cuda:latest", "dstack/cuda:3.11"),
        ("dstack/python:2.7", None),
        ("dstack/pyton", None),
        ("python:3.11", None),
    ],
)
def test_a_name_means_a_row_of_the_table_or_nothing(written: str, meant: str | None) -> None:
    assert own_image(written) == meant
    assert is_ours(written) is written.startswith("dstack/")


def test_every_row_has_a_dockerfile_that_takes_the_version() -> None:
    for row in IMAGES.values():
        text = (ROOT / "images" / row.folder / "Dockerfile").read_text()
        assert "ARG PYTHON" in text
        assert "/home/dstack" in text
    assert {each.name for each in (ROOT / "images").iterdir() if each.is_dir()} == {
        row.folder for row in IMAGES.values()
    }


def test_one_command_builds_and_publishes_all(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    docker.chmod(0o755)
    ran = subprocess.run(
        (sys.executable, ROOT / "images" / "build.py", "--push", "registry.lab/tools"),
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = (tmp_path / "said").read_text().splitlines()
    assert len(said) == 3 * len(own_images())
    assert f"build -t dstack/cuda:3.8 --build-arg PYTHON=3.8 {ROOT}/images/cuda" in said
    assert "push registry.lab/tools/cuda:3.8" in said
