"""What could be had and what goes on, by the installed commands, of a private agent with a card."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import alone
from support.lab import Peer, project

HOLD = "echo up; trap 'exit 0' TERM; while true; do sleep 0.05; done"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("looking"), DSTACK_GPUS="V100:16GB") as peer:
        yield peer


@pytest.fixture
def holder(home: Peer) -> Iterator[str]:
    """A run that has the card."""
    submitted = home.dstack("run", "bash", "-c", HOLD, "--gpu", "1", "-d", "-q", check=True)
    name = submitted.stdout.decode().strip()
    yield name
    home.dstack("stop", "-x", name, check=True)


def test_an_offer_says_who_could_take_it_now_and_why(home: Peer) -> None:
    shown = home.dstack("offers", "--gpu", "V100:16GB", check=True)
    head, row = shown.stdout.decode().splitlines()
    assert head.split()[:2] == ["AGENT", "WHEN"]
    assert row.split()[:2] == [home.name, "now"]
    assert f"a job like that would go to {home.name}: this machine can run it" in (
        shown.stderr.decode()
    )
    [item] = home.json("offers", "--gpu", "1")["items"]
    assert (item["verdict"], len(item["gives"]), item["reasons"]) == ("now", 1, [])
    assert home.dstack("offers", "-q", check=True).stdout.decode().split() == [home.name]


def test_where_nobody_can_take_it_each_reason_is_told(home: Peer) -> None:
    nobody = home.dstack("offers", "--gpu", "8", check=True)
    assert nobody.stdout == b""
    assert b"Nobody can take it now:" in nobody.stderr
    assert b"The job needs 8 GPUs" in nobody.stderr
    assert home.dstack("offers", "-q", "--gpu", "8", check=True).stdout == b""


def test_offers_start_hold_and_write_down_nothing(home: Peer, holder: str, tmp_path: Path) -> None:
    code = project(
        tmp_path / "code",
        "workflows:\n"
        "  - name: train\n    provider: bash\n    commands: [ls]\n    resources: {gpu: 1}\n"
        "  - name: use\n    provider: bash\n    deps: [other]\n    commands: [ls]\n"
        "  - name: other\n    provider: bash\n    commands: [ls]\n",
    )
    before = home.json("ps", "-a")["items"]
    [busy] = home.json("offers", "train", cwd=code)["items"]
    assert (busy["verdict"], busy["reasons"][0]["code"]) == ("later", "gpu-busy")
    assert holder in home.dstack("offers", "train", cwd=code, check=True).stderr.decode()
    missing = home.dstack("offers", "use", cwd=code, check=True)
    assert b"use cannot start: No run of other is done" in missing.stderr
    assert home.json("ps", "-a")["items"] == before


def test_wrong_files_and_agents_that_are_not_there_are_told(home: Peer) -> None:
    assert home.dstack("offers", "nothing-of-that-name").returncode == 2
    assert home.dstack("offers", "--agent", "nobody").returncode == 66
    alone_here = home.dstack("offers", "--remote", check=True)
    assert b"There is no other agent" in alone_here.stderr
    assert home.json("offers", "--remote") == {"schema": "dstack.offers/v1", "items": []}
