"""Section 4.13 of the map: names of runs that do not clash, and what holds where they do."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_cli.misused import Misused
from dstack_cli.naming import order_name
from dstack_cli.picture import RunPicture
from dstack_cli.reach import chosen_run
from dstack_cli.remembered import note_runs
from dstack_mesh.home import Home
from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.job import RunRecord
from dstack_scheduler.names import ADJECTIVES, ANIMALS

EVERY_FIRST = [f"{adjective}-{animal}-1" for adjective in ADJECTIVES for animal in ANIMALS]
AT = datetime(2026, 11, 26, tzinfo=UTC)


def picture(number: int, name: str, ours: bool = False) -> RunPicture:
    run_id = RunId(f"{number:026d}")
    return RunPicture(RunRecord(run_id, RunName(name), "train", "ana", AT, 1), ours=ours)


def test_4_13_2_a_new_run_takes_no_name_that_was_heard_of(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    assert re.fullmatch(r"[a-z]+-[a-z]+-1", order_name(home))
    note_runs(home, EVERY_FIRST)
    assert re.fullmatch(r"[a-z]+-[a-z]+-2", order_name(home))


def test_4_13_2_of_two_runs_of_one_name_ours_is_meant_or_the_id_is_asked_for() -> None:
    theirs = [picture(2, "calm-ibex-1"), picture(1, "calm-ibex-1")]
    with pytest.raises(Misused, match="2 runs are called calm-ibex-1") as told:
        chosen_run("calm-ibex-1", theirs)
    assert theirs[1].record.run_id in str(told.value) and told.value.code == "ambiguous"
    assert chosen_run(theirs[1].record.run_id, theirs) == theirs[1]
    ours = picture(3, "calm-ibex-1", ours=True)
    assert chosen_run("calm-ibex-1", [*theirs, ours]) == ours
    both = [ours, picture(4, "calm-ibex-1", ours=True)]
    with pytest.raises(Misused):
        chosen_run("calm-ibex-1", both)
