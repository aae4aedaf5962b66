"""Section 3.2.15 of the map: a run whose code follows what is edited meanwhile."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_cli.misused import Misused
from dstack_cli.run_words import read
from support.alone import alone
from support.eventually import eventually
from support.lab import DSTACK, Peer, project, said

WORKFLOWS = """
workflows:
  - name: serve
    provider: bash
    artifacts: [out]
    commands:
      - echo own > made
      - while ! test -e stop; do cat page; ls gone ignored/new made 2>/dev/null; sleep 0.1; done
      - cp page out/
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("reload")) as peer:
        yield peer


def test_3_2_15_what_is_edited_is_laid_into_the_job_while_it_runs(
    home: Peer, tmp_path: Path
) -> None:
    files = {"page": "first\n", "gone": "", "_DOT_gitignore": "ignored/\n"}
    code = project(tmp_path / "code", WORKFLOWS, **files)
    log = tmp_path / "log"
    with log.open("wb") as out:
        running = home.popen(
            (*DSTACK, "run", "serve", "--reload"),
            *(code,),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    seen = log.read_text

    def last() -> list[str]:
        return seen().split("\n")[-8:]

    eventually(lambda: "gone" in last() and "made" in last(), within=20)
    (code / "ignored").mkdir()
    (code / "ignored" / "new").write_text("")
    (code / "page").write_text("second\n")
    (code / "gone").unlink()
    eventually(lambda: "second" in last() and "gone" not in last(), within=20)
    assert "ignored/new" not in seen()
    assert "made" in last()
    (code / "stop").write_text("")
    assert running.wait(30) == 0, seen()

    told = seen()
    assert "reloaded serve: 1 file, 1 removed" in told and "reloaded serve: 1 file\n" in told
    assert told.count("follows the edits of its submitter") == 1
    again = home.dstack("run", "serve", cwd=code)
    assert b"reused" not in again.stderr and b"serve on" in again.stderr, said(again)


def test_3_2_15_edits_follow_only_while_somebody_stays() -> None:
    asked = read(["serve", "--reload"])
    assert asked.reload and not asked.reuse
    for words in (["-d", "serve", "--reload"], ["--reload", "serve", "--detach"]):
        with pytest.raises(Misused, match="while you stay"):
            read(words)
    assert not read(["serve", "--", "--reload"]).reload
