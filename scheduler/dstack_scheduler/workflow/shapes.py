"""What a value may look like: readers say it of themselves, and editors are told.

A reader is marked with `@shaped`; the table that it stands in needs nothing more. Shapes are about
form alone: whether a path leads out or a name exists, the reader finds out.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from dstack_mesh.frozen import frozen

R = TypeVar("R", bound=Callable[..., Any])


class Scalar(Enum):
    """One value; each may be a variable as well, as `$gpu`."""

    TEXT = "text"
    NUMBER = "a whole number, or a range of them"
    FLAG = "true or false"
    NOTHING = "nothing"


@frozen
class ListOf:
    """A list."""

    item: "Shape"


@frozen
class Table:
    """A mapping by a table of readers, which is looked up once it is needed.

    Attributes:
        needs: Keys that must be there.
        pattern: Of further keys.
        further: The shape of their values; None for any.
    """

    rows: Callable[[], Mapping[str, Callable[..., Any]]]
    needs: tuple[str, ...] = ()
    pattern: str = ""
    further: "Shape | None" = None


@frozen
class Either:
    """Any of several shapes."""

    shapes: tuple["Shape", ...]


Shape = Scalar | ListOf | Table | Either

ANY_MAPPING = Table(dict, pattern=".+")
TEXTS = ListOf(Scalar.TEXT)
TEXT_OR_TEXTS = Either((Scalar.TEXT, TEXTS))

_SHAPES: dict[Callable[..., Any], Shape] = {}


def shaped(shape: Shape) -> Callable[[R], R]:
    """Says of a reader which values it reads."""

    def note(read: R) -> R:
        _SHAPES[read] = shape
        return read

    return note


def shape_of(read: Callable[..., Any]) -> Shape | None:
    """What a reader reads; None if it does not say."""
    return _SHAPES.get(read)
