"""A run is named by its tag, wherever a run is named."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_cli.misused import Misused
from dstack_cli.picture import RunPicture
from dstack_cli.reach import chosen_run
from dstack_mesh.faults import Missing
from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.job import Revision, RunRecord

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


def run(number: int, repo: str, *tags: str) -> RunPicture:
    name, revision = RunName(f"calm-ibex-{number}"), Revision(repo)
    record = RunRecord(RunId(f"0{number}"), name, "x", "ana", AT, 1, revision)
    return RunPicture(record, tags=tags)


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This folder is of the repository "lab"."""
    (tmp_path / "lab").mkdir()
    monkeypatch.chdir(tmp_path / "lab")


def chosen(text: str, *pictures: RunPicture) -> str:
    return chosen_run(text, pictures).record.run_name


def test_a_tag_names_its_run_whatever_repository_it_is_of() -> None:
    runs = (run(1, "lab"), run(2, "other", "v1", "best"))
    assert chosen(":v1", *runs) == chosen(":best", *runs) == "calm-ibex-2"


def test_of_several_it_is_that_of_the_repository_of_this_folder() -> None:
    assert chosen(":v1", run(1, "other", "v1"), run(2, "lab", "v1")) == "calm-ibex-2"
    with pytest.raises(Misused, match="other and third"):
        chosen(":v1", run(1, "other", "v1"), run(2, "third", "v1"))


def test_a_tag_that_nobody_has_is_told_with_one_like_it() -> None:
    with pytest.raises(Missing) as missing:
        chosen(":trained", run(1, "lab", "traind"))
    assert (missing.value.code, missing.value.hint) == ("no-such-tag", "did you mean traind?")
