"""Several runs are pushed, and one of them or its remote cannot be."""

from datetime import UTC, datetime
from typing import cast

import pytest

from dstack_cli.picture import RunPicture
from dstack_cli.remotes.opened import OpenRemote
from dstack_cli.remotes.pushing import Pushed, Pusher, push_all
from dstack_mesh.faults import Unreachable
from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.job import RunRecord

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Lab:
    """A remote, as far as it is named."""

    name = "lab"


LAB = cast("OpenRemote", Lab())


def picture(number: int) -> RunPicture:
    record = RunRecord(RunId(f"0{number}"), RunName(f"calm-ibex-{number}"), "x", "ana", AT, 1)
    return RunPicture(record)


class Pushing:
    """Pushes all runs but one; `away` is a remote that does not answer."""

    def __init__(self, away: bool = False) -> None:
        self.away = away
        self.tried: list[str] = []

    async def begin(self, remote: OpenRemote) -> None:
        if self.away:
            raise Unreachable(f"{remote.name} does not answer.")

    async def push(self, one: RunPicture, remote: OpenRemote) -> Pushed:
        name = one.record.run_name
        self.tried.append(name)
        if name == "calm-ibex-2":
            raise Unreachable("ws-1 does not answer.", "", "dstack agents")
        return Pushed(name, remote.name, 0, 0, 0, ())


async def pushed(pushing: Pushing, *numbers: int) -> list[str]:
    wanted = [(picture(number), LAB) for number in numbers]
    return [one.run_name for one in await push_all(cast("Pusher", pushing), wanted)]


async def test_one_that_cannot_be_pushed_keeps_no_other_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await pushed(Pushing(), 1, 2, 3) == ["calm-ibex-1", "calm-ibex-3"]
    assert capsys.readouterr().err == "calm-ibex-2: ws-1 does not answer. dstack agents\n"


async def test_one_alone_that_cannot_be_pushed_is_the_trouble_of_the_command() -> None:
    with pytest.raises(Unreachable):
        await pushed(Pushing(), 2)


async def test_a_remote_that_does_not_answer_is_told_once() -> None:
    pushing = Pushing(away=True)
    with pytest.raises(Unreachable):
        await pushed(pushing, 1, 3)
    assert pushing.tried == []
