"""What the interpreter has already is not installed again, and a closed network is no trouble."""

import importlib.metadata
from pathlib import Path

import pytest

from dstack_agent.environments.present import MOST_NAMES, without_present
from dstack_agent.executor import pythons
from dstack_agent.executor.pythons import Interpreter, own

CLICK = importlib.metadata.version("click")


@pytest.mark.parametrize("step", [("click",), (f"click=={CLICK}",), ("click", "PyYAML")])
def test_what_is_there_is_not_installed(step: tuple[str, ...]) -> None:
    assert without_present([step], own()) == ()


@pytest.mark.parametrize(
    "step",
    [
        ("click==0.0.1",),
        ("click", "nobody-made-this"),
        ("click>=1",),
        ("-U", "click"),
        ("-r", "click"),
        ("./click",),
        ("click @ file:///click",),
    ],
)
def test_what_is_not_there_or_says_more_is_left_to_the_installer(step: tuple[str, ...]) -> None:
    assert without_present([("click",), step], own()) == (step,)


@pytest.mark.skipif(pythons.find("3.8") is None, reason="there is no Python 3.8 here")
def test_another_interpreter_is_asked_itself() -> None:
    other = pythons.find("3.8")
    assert other is not None
    left = without_present([("pip",), ("grpcio-that-nobody-has",)], other)
    assert left == (("grpcio-that-nobody-has",),)


def test_an_interpreter_that_does_not_answer_has_nothing() -> None:
    assert without_present([("pip",)], Interpreter("3.9", Path("/nowhere"))) == (("pip",),)


def test_of_very_many_names_none_is_looked_for() -> None:
    steps = [("click",), tuple(f"nobody-made-{number}" for number in range(MOST_NAMES))]
    assert without_present(steps, own()) == tuple(steps)
