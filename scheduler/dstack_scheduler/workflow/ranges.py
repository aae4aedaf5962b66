"""Numbers and sizes as ranges: `2..4`, `24GB..`, `..80GB`; a single one is its own least."""

from collections.abc import Callable
from typing import NamedTuple

from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.sizes import parse_size
from dstack_scheduler.workflow.tree import Node, shorten

MOST = 10**6
"""Of anything that is counted; what asks for more is a slip."""


class Range(NamedTuple):
    """From `least` to `most`; 0 is no end."""

    least: int
    most: int = 0


def parse_range(text: str, parse: Callable[[str], int | None]) -> Range | None:
    """A range of what `parse` reads; None if it is none, or ends before it begins."""
    low, dots, high = (part.strip() for part in text.partition(".."))
    if not dots:
        only = parse(low)
        return None if only is None else Range(only)
    ends = [parse(end) if end else 0 for end in (low, high)]
    if not (low or high) or None in ends:
        return None
    least, most = (end or 0 for end in ends)
    return None if high and most < least else Range(least, most)


def parse_count(text: str) -> int | None:
    """A whole number from 0 to `MOST`."""
    word = text.strip().removeprefix("+")
    return int(word) if word.isascii() and word.isdigit() and int(word[:9]) <= MOST else None


def read_count(node: Node, scope: Scope) -> Range | None:
    """`4`, `2..4`, `2..`; None if it is no number, or a variable left it empty."""
    text = scope.text(node)
    if text is None or scope.left_empty(text, node):
        return None
    found = parse_range(text, parse_count)
    if found is None:
        scope.complain(
            node,
            Code.BAD_NUMBER,
            f'"{scope.key}" must be a whole number from 0 to {MOST}, not "{shorten(text)}".',
            "write a number, as 4, or a range, as 2..4",
        )
    return found


def read_sizes(node: Node, scope: Scope) -> Range | None:
    """`16GB`, `16GB..`, `16GB..64GB`; None if it is no size, or a variable left it empty."""
    text = scope.text(node)
    if text is None or scope.left_empty(text, node):
        return None
    found = parse_range(text, parse_size)
    if found is None:
        scope.complain(
            node,
            Code.BAD_SIZE,
            f'"{scope.key}" must be a size with a unit, not "{shorten(text)}".',
            "write a number and MB, GB, MiB or GiB, as 16GB, or a range, as 16GB..32GB",
        )
    return found
