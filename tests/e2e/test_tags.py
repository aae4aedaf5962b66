"""Folders that are uploaded under a tag, and tags and runs of other repositories."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import alone
from support.lab import Peer, project

WORKFLOWS = """
workflows:
  - name: prepare
    provider: bash
    commands: [mkdir -p data, echo prepared > data/x]
    artifacts: [data]
  - name: train
    provider: bash
    deps: [":corpus"]
    commands: [cat corpus/a/deep, cat more/b, test -x corpus/run]
"""

OTHER = """
workflows:
  - name: other
    provider: bash
    deps: [acme/digits/prepare, ":acme/digits/corpus"]
    commands: [cat data/x corpus/a/deep]
  - name: nowhere
    provider: bash
    deps: [acme/letters/prepare]
    commands: ["true"]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("tags") / "p") as peer:
        yield peer


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return at(project(tmp_path_factory.mktemp("digits") / "code", WORKFLOWS), "acme/digits")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return at(project(tmp_path_factory.mktemp("other") / "code", OTHER), "acme/other")


def at(folder: Path, repo: str) -> Path:
    """The folder as one of a repository on a host."""
    url = f"git@example.org:{repo}.git"
    subprocess.run(("git", "remote", "add", "origin", url), cwd=folder, check=True)
    return folder


def test_folders_are_uploaded_as_a_run_with_a_tag_and_used(
    home: Peer, code: Path, other: Path, tmp_path: Path
) -> None:
    (code / "corpus" / "a").mkdir(parents=True)
    (code / "corpus" / "a" / "deep").write_text("deep\n")
    (code / "corpus" / "empty").mkdir()
    (code / "corpus" / "run").write_text("#!/bin/sh\n")
    (code / "corpus" / "run").chmod(0o755)
    outside = tmp_path / "more"
    outside.mkdir()
    (outside / "b").write_text("b\n")

    upload = ("tags", "add", "corpus", "corpus", "-a", str(outside), "--json")
    assert home.json(*upload, cwd=code)["schema"] == "dstack.end/v1"
    items = home.json("ls", ":corpus", "-r", cwd=code)["items"]
    assert {item["path"]: item["mode"] for item in items} == {
        "corpus/a/deep": "0644",
        "corpus/empty/": "0755",
        "corpus/run": "0755",
        "more/b": "0644",
    }
    [tag] = home.json("tags")["items"]
    assert (tag["tag"], tag["repo"]) == ("corpus", "example.org/acme/digits")
    ran = home.dstack("run", "train", cwd=code, check=True)
    assert ran.stdout == b"deep\nb\n"

    home.dstack("run", "prepare", cwd=code, check=True)
    ran = home.dstack("run", "other", cwd=other, check=True)
    assert ran.stdout == b"prepared\ndeep\n"
    for name in ("acme/digits/prepare", ":acme/digits/corpus"):
        assert home.json("ls", name, cwd=other)["items"], name
    home.dstack("cp", "acme/digits/prepare", "data/x", str(tmp_path / "x"), cwd=other, check=True)
    assert (tmp_path / "x").read_text() == "prepared\n"

    nobody = home.dstack("run", "nowhere", cwd=other)
    assert nobody.returncode != 0 and b"acme/letters" in nobody.stderr
    assert b"example.org/acme/digits" in nobody.stderr


def test_a_reference_with_two_parts_is_no_reference(home: Peer, code: Path) -> None:
    wrong = home.dstack("ls", ":digits/corpus", cwd=code)
    assert wrong.returncode == 2 and b"owner/repo" in wrong.stderr


def test_folders_that_would_lie_in_each_other_are_refused(
    home: Peer, code: Path, tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    twice = ("tags", "add", "two", "-a", ".dstack", "-a", str(tmp_path / ".dstack"))
    (tmp_path / ".dstack").mkdir()
    assert b"Two of these folders" in home.dstack(*twice, cwd=code).stderr
    absent = home.dstack("tags", "add", "none", "-a", str(tmp_path / "none"), cwd=code)
    assert absent.returncode == 2 and b"is no folder" in absent.stderr
