"""Which words of `dstack run` are ours."""

import pytest

from dstack_cli.misused import Misused
from dstack_cli.run_words import Asked, read


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("", Asked()),
        ("train", Asked("train")),
        ("train --gpu 1 --lr 0.1", Asked("train", ("--gpu", "1", "--lr", "0.1"))),
        ("train -d --epochs 3 -q", Asked("train", ("--epochs", "3"), detach=True, quiet=True)),
        ("train -dq", Asked("train", detach=True, quiet=True)),
        ("train -dz", Asked("train", ("-dz",))),
        ("-d train", Asked("train", detach=True)),
        ("train --tag v1", Asked("train", tag="v1")),
        ("train -t=v1", Asked("train", tag="v1")),
        ("train --x -1 -- -d --json", Asked("train", ("--x", "-1", "--", "-d", "--json"))),
        ("python fit.py --flag=-d", Asked("python", ("fit.py", "--flag=-d"))),
        ("train --local", Asked("train", placement="local")),
        ("train --remote 5", Asked("train", ("5",), placement="remote", remote=True)),
        ("train --remote=ws-2", Asked("train", placement="ws-2", remote=True)),
        ("train --remote --agent ws-2", Asked("train", placement="ws-2", remote=True)),
        ("train --agent ws-2 --remote", Asked("train", placement="ws-2", remote=True)),
        ("train --help", Asked("train", help=True)),
        ("--home /x train", Asked("train", home="/x")),
        ("train --follow", Asked("train")),
    ],
)
def test_our_flags_are_found_and_the_rest_is_passed_on_in_order(line: str, asked: Asked) -> None:
    assert read(line.split()) == asked


@pytest.mark.parametrize(
    "line",
    [
        "train --agent",
        "--detahc train",
        "--gpu 1 train",
        "train --local --remote",
        "train --remote --local",
        "train --local --agent ws-2",
        "train --agent a --agent b",
        "train --json=1",
    ],
)
def test_what_cannot_be_meant_is_refused(line: str) -> None:
    with pytest.raises(Misused):
        read(line.split())


def test_a_mistyped_flag_gets_a_suggestion() -> None:
    with pytest.raises(Misused) as raised:
        read(["--detahc", "train"])
    assert "--detach" in raised.value.hint
