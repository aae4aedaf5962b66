"""Mistakes in what a person wrote, as they see them: place, line, caret, what would fix it."""

from collections.abc import Sequence

from dstack_cli.output.escapes import plain
from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Table
from dstack_scheduler.workflow.problem import Place, Problem

SCHEMA = "dstack.problems/v1"

EXCERPT = 120
"""Characters of a line that are shown at most."""


def told(problems: Sequence[Problem]) -> str:
    """All mistakes for people."""
    return "\n".join(line for problem in problems for line in _lines(problem))


def shape(problem: Problem) -> dict[str, Json]:
    """A mistake for scripts."""
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "workflow": problem.workflow,
        "key": problem.key,
        "code": problem.code.value,
        "message": problem.message,
        "hint": problem.hint,
    }


def listing(problems: Sequence[Problem]) -> Listing:
    """All mistakes for scripts."""
    return Listing(SCHEMA, [shape(problem) for problem in problems], Table((), ()))


def _lines(problem: Problem) -> list[str]:
    place = Place(problem.file, problem.line, problem.column)
    lines = [f"{place}: {plain(problem.message)} ({problem.code.value})"]
    if problem.source:
        number = str(problem.line)
        marked, column = _around(problem.source.replace("\t", " "), problem.column)
        caret = " " * max(0, column - 1) + "^" * min(max(1, problem.length), EXCERPT)
        lines.append(f"  {number} | {plain(marked).rstrip()}")
        lines.append(f"  {' ' * len(number)} | {caret}")
    if problem.hint:
        lines.append(f"  fix: {plain(problem.hint)}")
    return lines


def _around(line: str, column: int) -> tuple[str, int]:
    """The part of a long line that holds the column, and where the column is in it."""
    if len(line) <= EXCERPT:
        return line, column
    begin = max(0, column - 1 - EXCERPT // 2)
    return line[begin : begin + EXCERPT], column - begin
