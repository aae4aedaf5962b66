"""Section 4.12 of the map: results of earlier runs, and 4.3.4: jobs that are tried again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import alone
from support.lab import Peer, project, said

WORKFLOWS = """
workflows:
  - name: prepare
    provider: bash
    commands: [cat src/numbers input.txt > data/numbers, date +%N > data/when]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands: [cat data/* > model/weights, echo "$epochs" >> model/weights]
    artifacts: [model]
  - name: narrow
    provider: bash
    depends-on: {workflows: [], repo: {include: ['src/**']}}
    commands: [cat src/numbers > model/weights]
    artifacts: [model]
  - name: shaky
    provider: bash
    retry: 1
    commands: ['echo "try $DSTACK_ATTEMPT"', 'test "$DSTACK_ATTEMPT" = 2']
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("reuse")) as peer:
        yield peer


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = project(tmp_path / "p", WORKFLOWS)
    (folder / ".dstack" / "variables.yaml").write_text("variables:\n  train:\n    epochs: 1\n")
    (folder / "src").mkdir()
    (folder / "src" / "numbers").write_text(f"1 {tmp_path}\n")
    (folder / "input.txt").write_text("2\n")
    return folder


def run(home: Peer, code: Path, *words: str) -> list[str]:
    """What a run says of places and results, a word a job."""
    ended = home.dstack("run", *words, cwd=code)
    assert ended.returncode == 0, said(ended)
    lines = ended.stderr.decode().splitlines()
    done = [f"reused {line.split('(')[1].split(')')[0]}" for line in lines if "reused" in line]
    return done + [line.split()[1] for line in lines if " on " in line and "  " in line]


def test_4_12_1_a_job_is_not_run_where_nothing_changed(home: Peer, code: Path) -> None:
    assert run(home, code, "train") == ["prepare", "train"]
    assert run(home, code, "train") == ["reused train"]
    assert run(home, code, "train", "--epochs", "2") == ["reused prepare", "train"]
    assert run(home, code, "train", "--no-reuse") == ["prepare", "train"]
    (code / "input.txt").write_text("3\n")
    assert run(home, code, "train") == ["prepare", "train"]


def test_4_12_1_the_earlier_run_is_what_scripts_are_told(home: Peer, code: Path) -> None:
    first = home.dstack("run", "train", "-d", "-q", cwd=code, check=True).stdout
    home.dstack("wait", first.decode().strip(), check=True)
    again = home.dstack("run", "train", "-d", "-q", "-t", "best", cwd=code, check=True)
    assert again.stdout == first
    assert home.json("run", "train", cwd=code)["run"] == first.decode().strip()
    (tag,) = [one for one in home.json("tags")["items"] if one["tag"] == "best"]
    assert tag["run"] == first.decode().strip()


def test_4_12_1_only_files_count_that_a_workflow_names(home: Peer, code: Path) -> None:
    assert run(home, code, "narrow") == ["narrow"]
    (code / "input.txt").write_text("4\n")
    assert run(home, code, "narrow") == ["reused narrow"]
    (code / "src" / "more").write_text("5\n")
    assert run(home, code, "narrow") == ["narrow"]


def test_4_3_4_a_job_is_tried_again(home: Peer, code: Path) -> None:
    ended = home.dstack("run", "shaky", cwd=code)
    assert ended.returncode == 0, said(ended)
    assert ended.stdout == b"try 1\ntry 2\n"
    assert b"trying again (attempt 2)" in ended.stderr
    (shown,) = home.json("ps", "@")["items"]
    assert (shown["status"], shown["jobs"][0]["attempt"]) == ("done", 2)


def test_4_3_4_somebody_tries_again_when_nobody_is_attached(home: Peer, code: Path) -> None:
    name = home.dstack("run", "shaky", "-d", "-q", cwd=code, check=True).stdout.decode().strip()
    followed = home.dstack("attach", name)
    assert followed.returncode == 0, said(followed)
    assert followed.stdout.endswith(b"try 2\n")
    assert home.dstack("wait", name).returncode == 0
