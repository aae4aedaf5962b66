"""Prints what the workflow language reads: reading it again gives the same."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from dstack_scheduler.workflow.cards import Cards
from dstack_scheduler.workflow.model import Dependency
from dstack_scheduler.workflow.ranges import Range
from dstack_scheduler.workflow.sizes import UNITS
from dstack_scheduler.workflow.tree import ListNode, MapNode, Node, ScalarNode

Value: TypeAlias = "str | Sequence[Value] | Mapping[str, Value]"


def print_value(value: Value) -> str:
    """A value as YAML, every text in double quotes."""
    if isinstance(value, str):
        return print_text(value)
    if isinstance(value, Mapping):
        entries = (f"? {print_text(key)} : {print_value(each)}" for key, each in value.items())
        return "{" + ", ".join(entries) + "}"
    return "[" + ", ".join(map(print_value, value)) + "]"


def print_text(text: str) -> str:
    """A text in double quotes, all but plain letters escaped."""
    return '"' + "".join(map(_escaped, text)) + '"'


def value_of(node: Node) -> Value:
    """What a tree says, without its places."""
    match node:
        case ScalarNode(text=text):
            return text
        case ListNode(items=items):
            return [value_of(item) for item in items]
        case MapNode(entries=entries):
            return {key.text: value_of(each) for key, each in entries}


def print_size(size: int) -> str:
    """A size in the largest unit that it is a whole number of."""
    for name, unit in sorted(UNITS.items(), key=lambda row: (-row[1], row[0])):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return "0B"


def print_range(range_: Range) -> str:
    """A range of counts."""
    return f"{range_.least}..{range_.most}" if range_.most else str(range_.least)


def print_cards(cards: Cards) -> str:
    """Cards in one text."""
    memory = cards.memory
    sizes = "" if memory is None else print_size(memory.least) + ".."
    if memory is not None and memory.most:
        sizes += print_size(memory.most)
    number = "" if cards.number is None else print_range(cards.number)
    return ":".join(part for part in (cards.names, number, sizes) if part)


def print_dependency(dependency: Dependency) -> str:
    """A dependency as text."""
    path = "/".join(part for part in (dependency.repo, dependency.workflow) if part)
    if not dependency.workflow:
        return ":" + "/".join(part for part in (dependency.repo, dependency.tag) if part)
    return f"{path}:{dependency.tag}" if dependency.tag else path


def _escaped(letter: str) -> str:
    code = ord(letter)
    if letter in '"\\' or not 32 <= code < 127:
        return f"\\x{code:02x}" if code < 256 else f"\\U{code:08x}"
    return letter
