"""`@frozen` is a dataclass in every way that our code relies on."""

from dataclasses import FrozenInstanceError, field, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.frozen import frozen


@frozen
class Point:
    """A value."""

    x: int
    y: int = 0
    tags: tuple[str, ...] = ()


@frozen
class Other:
    """Another value of the same shape."""

    x: int
    y: int = 0
    tags: tuple[str, ...] = ()


@frozen
class Bag:
    """Has a default that is made anew."""

    things: list[int] = field(default_factory=list[int])


@given(st.integers(), st.integers(), st.integers(), st.integers())
def test_it_is_equal_and_hashes_by_value(a: int, b: int, c: int, d: int) -> None:
    assert (Point(a, b) == Point(c, d)) is ((a, b) == (c, d))
    assert hash(Point(a, b)) == hash(Point(a, b))
    assert Point(a, b) != Other(a, b)


def test_it_cannot_be_changed() -> None:
    point = Point(1)
    for change in ("x", "y", "unknown"):
        with pytest.raises(FrozenInstanceError):
            setattr(point, change, 2)
    with pytest.raises(FrozenInstanceError):
        del point.x  # pyright: ignore[reportAttributeAccessIssue]
    assert point == Point(1, 0)


def test_it_is_replaced_matched_and_shown_as_a_dataclass() -> None:
    assert replace(Point(1), y=3) == Point(1, 3)
    assert [each.name for each in fields(Point)] == ["x", "y", "tags"]
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)
    assert repr(Point(1)) == "Point(x=1, y=0, tags=())"


def test_defaults_are_made_for_each() -> None:
    Bag().things.append(1)
    assert Bag().things == []
