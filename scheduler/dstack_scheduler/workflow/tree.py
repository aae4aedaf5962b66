"""A YAML file as a tree: each value as it was written, with its place."""

import re
from collections.abc import Iterable
from enum import Enum

from dstack_mesh.frozen import frozen
from dstack_scheduler.workflow.problem import Place


class Kind(Enum):
    """What a scalar is by the core schema of YAML 1.2."""

    NULL = "nothing"
    FLAG = "true or false"
    WHOLE = "a whole number"
    NUMBER = "a number"
    TEXT = "text"


_PLAIN = (
    (Kind.NULL, re.compile(r"(?:~|null|Null|NULL)?\Z")),
    (Kind.FLAG, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    (Kind.WHOLE, re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")),
    (
        Kind.NUMBER,
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
    ),
)


def plain_kind(text: str) -> Kind:
    """What an unquoted scalar is; `on`, `no` and `1_000` are text, `1e-3` is a number."""
    return next((kind for kind, pattern in _PLAIN if pattern.match(text)), Kind.TEXT)


@frozen
class ScalarNode:
    """A value as it was written: `text` of `3.10` is "3.10"; [start, end) is its span."""

    place: Place
    text: str
    kind: Kind = Kind.TEXT
    start: int = 0
    end: int = 0


@frozen
class ListNode:
    """A list."""

    place: Place
    items: tuple["Node", ...]


@frozen
class MapNode:
    """A mapping; each key once, in the order of the file."""

    place: Place
    entries: tuple[tuple[ScalarNode, "Node"], ...]


Node = ScalarNode | ListNode | MapNode


def find(node: MapNode, keys: Iterable[str]) -> tuple[ScalarNode, Node] | None:
    """The first entry under one of the keys."""
    return next(((key, value) for key, value in node.entries if key.text in keys), None)


def is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.kind is Kind.NULL


def describe(node: Node) -> str:
    """What a value is, for a message: `the list [a, b]`, `"abc"`, `nothing`."""
    match node:
        case ScalarNode(kind=Kind.NULL):
            return "nothing"
        case ScalarNode(text=text):
            return f'"{shorten(text)}"'
        case ListNode(items=items):
            return f"a list of {len(items)}"
        case MapNode(entries=entries):
            return (
                f"a mapping with {shorten(', '.join(key.text for key, _ in entries)) or 'no keys'}"
            )


def shorten(text: str, most: int = 60) -> str:
    """Text for a message, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
