"""Runs of one home after their end: started again, explained, removed, named by their jobs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import alone
from support.lab import Peer, project, said

WORKFLOWS = """
workflows:
  - name: prepare
    provider: bash
    commands: [mkdir -p data, echo d > data/d]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands:
      - mkdir -p ckpt
      - cat data/d
      - cat ckpt/step 2>/dev/null || echo fresh
      - echo more >> ckpt/step
      - test "$(wc -l < ckpt/step)" -ge 2
    artifacts: [ckpt]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("cli")) as peer:
        yield peer


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("code"), WORKFLOWS)


@pytest.fixture(scope="module")
def failed(home: Peer, code: Path) -> str:
    """A run whose second job fails unless it finds what it kept."""
    assert home.dstack("run", "train", cwd=code).returncode == 1
    return str(home.json("ps")["items"][0]["run"])


def test_a_run_that_ended_goes_on_from_what_it_kept(home: Peer, code: Path, failed: str) -> None:
    again = home.dstack("restart", failed, cwd=code, check=True)
    assert again.stdout == b"d\nmore\n"
    assert f"{failed} again, with what it kept: ckpt, data".encode() in again.stderr
    cleared = home.dstack("restart", failed, "-c", cwd=code)
    assert (cleared.returncode, cleared.stdout) == (1, b"d\nfresh\n"), said(cleared)
    alone = home.dstack("resume", failed, "train", "-d", "-q", cwd=code, check=True)
    name = alone.stdout.decode().strip()
    assert home.dstack("wait", name, cwd=code).returncode == 0
    assert [job["workflow"] for job in home.json("ps", name)["items"][0]["jobs"]] == ["train"]
    told = home.json("explain", name)
    assert (told["status"], told["jobs"][0]["status"]) == ("done", "done")


def test_elsewhere_one_job_starts_again_as_its_submitter_signed_it(
    home: Peer, code: Path, failed: str
) -> None:
    """A home that does not know what the run was made of is any other home."""
    for order in (home.home / "state" / "orders").iterdir():
        order.unlink()
    several = home.dstack("restart", failed, "-c", cwd=code)
    assert several.returncode == 125 and b"not-submitted-here" in several.stderr, said(several)
    again = home.dstack("restart", failed, cwd=code, check=True)
    assert again.stdout == b"d\nmore\n"
    assert f"{failed} again, with what it kept: ckpt, data".encode() in again.stderr


def test_a_job_is_named_by_its_id_and_by_its_workflow(home: Peer, code: Path, failed: str) -> None:
    table = home.dstack("status", failed, cwd=code, check=True).stdout.decode()
    prepare, train = re.findall(r"^ +([0-9a-f]{12}) ", table, re.MULTILINE)
    assert home.dstack("logs", train, cwd=code, check=True).stdout == b"d\nfresh\n"
    assert home.dstack("logs", prepare[:6], cwd=code, check=True).stdout == b""
    assert home.dstack("logs", failed, "train", cwd=code, check=True).stdout == b"d\nfresh\n"
    kept = home.dstack("artifacts", "list", failed, "prepare", cwd=code, check=True).stdout
    assert b"data" in kept and b"ckpt" not in kept
    missing = home.dstack("logs", failed, "trian", cwd=code)
    assert missing.returncode == 125 and b"did you mean train?" in missing.stderr
    for words in ((failed, "train"), (train,)):
        twice = home.dstack("logs", *words, "--job", "0", cwd=code)
        assert twice.returncode == 2 and b"both name a job" in twice.stderr, said(twice)
    shut = home.dstack("app", failed, "trian", cwd=code)
    assert shut.returncode == 66 and b"did you mean train?" in shut.stderr, said(shut)
    stopped = home.dstack("stop", train, cwd=code, check=True)
    assert failed.encode() in stopped.stdout


def test_a_run_that_ended_is_removed_and_a_tag_keeps_what_it_kept(home: Peer, code: Path) -> None:
    for _ in range(2):
        home.dstack("run", "bash", "-c", "date > o/when", "--artifact", "o", check=True)
    plain, tagged = (item["run"] for item in home.json("ps", "-n", "2")["items"])
    home.dstack("tag", "good", tagged, check=True)
    unasked = home.dstack("rm", plain)
    assert unasked.returncode == 2 and b"Nobody is there to answer" in unasked.stderr
    home.dstack("prune", "-f", check=True)
    left = {item["run"] for item in home.json("ps", "-a")["items"]}
    assert plain not in left and tagged in left
    home.dstack("delete", tagged, "-y", check=True)
    assert tagged not in {item["run"] for item in home.json("ps", "-a")["items"]}
    assert b"when" in home.dstack("ls", ":good", "-r", check=True).stdout
    names = (home.home / "state" / "run-names").read_text().split()
    assert plain not in names and tagged not in names
    goes_on = home.dstack("run", "bash", "-c", "sleep 60", "-d", "-q", check=True)
    refused = home.dstack("rm", goes_on.stdout.decode().strip(), "-y")
    assert (refused.returncode, b"dstack stop" in refused.stderr) == (78, True), said(refused)
    home.dstack("stop", "@", "-x", check=True)
