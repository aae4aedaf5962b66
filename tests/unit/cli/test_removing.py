"""Several runs are removed, and one of them is refused."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dstack_cli.output.forms import chosen
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Reach
from dstack_cli.removing import remove_all
from dstack_mesh.faults import Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId, RunId, RunName
from dstack_scheduler.job import RunRecord

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
AGENT = PeerId("ws1")


def picture(number: int) -> RunPicture:
    record = RunRecord(RunId(f"0{number}"), RunName(f"calm-ibex-{number}"), "x", "ana", AT, 1)
    return RunPicture(record, tellers=(AGENT,))


class Agent:
    """An agent that keeps one run."""

    card = SimpleNamespace(peer_id=AGENT)

    async def remove(self, run_id: RunId) -> None:
        if run_id == "02":
            raise Refused("It is held here.", "", "dstack ps", "held")


class InReach:
    """What removing asks of a `Reach`."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.prepare()
        self.store = SimpleNamespace(let_go=list[str]().append)

    async def answering(self) -> list[Agent]:
        return [Agent()]

    def names(self) -> dict[PeerId, str]:
        return {}


async def removed(root: Path, *numbers: int) -> list[str]:
    reach, meant = cast("Reach", InReach(root)), [picture(number) for number in numbers]
    return [one.record.run_name for one in await remove_all(reach, meant, chosen(quiet=True))]


async def test_one_that_is_refused_keeps_no_other_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await removed(tmp_path, 1, 2, 3) == ["calm-ibex-1", "calm-ibex-3"]
    assert capsys.readouterr().err == "calm-ibex-2: It is held here. dstack ps\n"


async def test_one_alone_that_is_refused_is_the_trouble_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        await removed(tmp_path, 2)
