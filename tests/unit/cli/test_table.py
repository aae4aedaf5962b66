"""Tables fit, and what matters stays whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_cli.output.table import Column, Table, draw

RUNS = Table(
    (
        Column("RUN"),
        Column("TAG", 4),
        Column("JOB", 3),
        Column("WORKFLOW", 1),
        Column("VARIABLES", 2),
        Column("SUBMITTED", 3),
        Column("RUNNER", 1),
        Column("STATUS"),
    ),
    (
        (
            "lazy-bobcat-1",
            "<none>",
            "",
            "prepare",
            "--gpu 4\n--lr 0.1",
            "5 mins ago",
            "ws-2",
            "DONE",
        ),
        ("", "", "711f6d690b4f", "prepare", "--gpu 4", "5 mins ago", "grumpy-duck-1", "PREPARING"),
    ),
)


def test_without_a_width_everything_is_there() -> None:
    lines = draw(RUNS, None)
    assert lines[0].split() == [column.title for column in RUNS.columns]
    assert lines[1].startswith("lazy-bobcat-1  <none>")
    assert lines[2].split() == ["--lr", "0.1"]
    assert lines[3].endswith("PREPARING")


@pytest.mark.parametrize("width", [30, 60, 80, 100, 140])
def test_names_and_states_are_whole_at_every_width(width: int) -> None:
    lines = draw(RUNS, width)
    assert "lazy-bobcat-1" in lines[1]
    assert lines[1].endswith("DONE")
    assert lines[-1].endswith("PREPARING")
    assert all(len(line) <= width for line in lines)


@given(st.lists(st.text("ab ", max_size=40), min_size=3, max_size=3), st.integers(20, 120))
def test_no_line_is_wider_than_the_terminal_where_columns_can_go(
    row: list[str], width: int
) -> None:
    table = Table((Column("RUN"), Column("A", 1), Column("B", 2)), (("r1", row[1], row[2]),))
    assert all(len(line) <= width for line in draw(table, width))
