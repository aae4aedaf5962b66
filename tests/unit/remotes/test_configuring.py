"""`dstack config` as people type it, without asking a place."""

import json
from pathlib import Path
from typing import Any

import pytest

from dstack_cli.tree import invoke


class Person:
    """Types command lines into one home."""

    def __init__(self, home: Path, streams: pytest.CaptureFixture[str]) -> None:
        self._home = home
        self._streams = streams

    def config(self, line: str) -> str:
        """What was said of it on standard error."""
        invoke(["--home", str(self._home), "config", *line.split()])
        return self._streams.readouterr().err

    def remotes(self, line: str = "list") -> list[dict[str, Any]]:
        invoke(["--home", str(self._home), "config", *line.split(), "--json"])
        return json.loads(self._streams.readouterr().out)["items"]

    @property
    def default(self) -> list[str]:
        return [one["remote"] for one in self.remotes() if one["default"]]


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path, capsys)


def test_one_without_a_name_is_the_default(person: Person) -> None:
    assert "the remote 'lab', and the default." in person.config("lab s3://lab-runs --no-check")
    person.config("s3://mine --no-check")
    assert person.default == ["default"]


def test_the_place_before_is_told_and_either_order_will_do(person: Person) -> None:
    person.config("lab s3://lab-runs --no-check")
    said = person.config("s3://other/team lab --no-check")
    assert "s3://other/team is the remote 'lab', instead of s3://lab-runs, and the default." in said
    assert "instead" not in person.config("lab s3://other/team --no-check")


def test_a_remote_that_is_there_can_be_made_the_default(person: Person) -> None:
    person.config("lab s3://lab-runs --no-check")
    person.config("mine s3://mine --no-check")
    assert person.default == ["lab"]
    person.config("mine --default")
    assert person.default == ["mine"]


def test_who_deletes_the_default_hears_which_is_it_now(person: Person) -> None:
    for name in ("a", "b", "c"):
        person.config(f"{name} s3://lab-runs --no-check")
    assert "No remote is the default now" in person.config("delete a")
    person.config("b --default")
    assert "c is the default remote now." in person.config("delete b")
    assert "default" not in person.config("delete c")


def test_scripts_get_what_was_named_and_what_was_deleted(person: Person) -> None:
    (named,) = person.remotes("lab s3://lab-runs --no-check")
    assert (named["remote"], named["url"], named["default"]) == ("lab", "s3://lab-runs", True)
    assert person.remotes("delete lab") == [named]
    assert person.remotes() == []
