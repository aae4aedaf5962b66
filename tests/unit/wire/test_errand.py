"""A command beside a job as a message, and back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.faults import Invalid
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_scheduler.errand import MOST_CHARACTERS, Errand, Outcome, Window
from dstack_scheduler.wire import convert
from dstack_scheduler.wire.errand import (
    errand_from_wire,
    errand_to_wire,
    outcome_from_wire,
    outcome_to_wire,
)
from support.machines import key

PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
WINDOWS = st.builds(Window, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
WORDS = st.lists(PLAIN, max_size=5).filter(lambda words: words[:1] != [""]).map(tuple)


@settings(max_examples=30)
@given(WORDS, st.sampled_from(["", "xterm-256color", "vt220"]), WINDOWS)
def test_a_command_arrives_as_it_was_sent(
    words: tuple[str, ...], terminal: str, window: Window
) -> None:
    errand = Errand(words, terminal, window)
    assert errand_from_wire(errand_to_wire(key(), errand)) == (key(), errand)


@given(st.integers(0, 255), st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_an_outcome_arrives_as_it_was_sent(code: int, why: str) -> None:
    assert outcome_from_wire(outcome_to_wire(Outcome(code, why))) == Outcome(code, why)


@pytest.mark.parametrize(
    "wrong",
    [
        {"words": [""]},
        {"words": ["a\0b"]},
        {"words": ["a" * MOST_CHARACTERS, "b"]},
        {"words": ["a"] * 10_001},
        {"terminal": "-x"},
        {"terminal": "a b"},
        {"terminal": "x" * 65},
        {"window": pb.Window(rows=1 << 16)},
        {"window": pb.Window(columns=1 << 16)},
    ],
)
def test_what_is_no_command_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        errand_from_wire(pb.Command(key=convert.key_to_wire(key()), **wrong))  # pyright: ignore[reportArgumentType]


def test_what_an_agent_says_of_an_end_is_one_line() -> None:
    assert outcome_from_wire(pb.Outcome(exit_code=1, why="a\x1b[31m\nb")) == Outcome(1, "a[31mb")
