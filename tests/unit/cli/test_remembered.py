"""What a home remembers of what it submitted."""

from pathlib import Path

from dstack_cli.remembered import KEPT, Submitted, recall, remember
from dstack_mesh.home import Home


def submitted(number: int) -> Submitted:
    return Submitted(
        run_id=f"{number:026}",
        run_name=f"calm-ibex-{number}",
        target="train",
        owner="ana@laptop",
        repo="",
        submitted_at=f"2026-11-20T12:{number // 60 % 60:02}:{number % 60:02}+00:00",
        variables={"lr": "1e-4"},
    )


def test_runs_come_back_newest_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for number in (1, 3, 2):
        remember(home, submitted(number))
    assert [run.run_name for run in recall(home)] == ["calm-ibex-3", "calm-ibex-2", "calm-ibex-1"]
    assert recall(home)[0] == submitted(3)


def test_a_home_that_submitted_nothing_recalls_nothing(tmp_path: Path) -> None:
    assert recall(Home(tmp_path)) == []


def test_a_torn_line_loses_only_itself(tmp_path: Path) -> None:
    home = Home(tmp_path)
    remember(home, submitted(1))
    with (home.state / "submitted.jsonl").open("a") as kept:
        kept.write('{"run_id": "torn\n')
    remember(home, submitted(2))
    assert [run.run_name for run in recall(home)] == ["calm-ibex-2", "calm-ibex-1"]


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for number in range(2 * KEPT + 1):
        remember(home, submitted(number))
    assert len(recall(home)) == KEPT
    assert len((home.state / "submitted.jsonl").read_text().splitlines()) == KEPT
