"""`@frozen` is a dataclass in every way that our code relies on."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, field, fields, replace
from threading import Barrier
from typing import Any

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


@frozen(slots=True)
class Small:
    """Has slots, a default, and a field that must be named."""

    x: int
    y: str = "y"
    z: int = field(default=0, kw_only=True)


@frozen
class Below(Point):
    """Adds a field to another."""

    depth: int = 1


@frozen
class Positive:
    """Makes itself."""

    x: int

    def __init__(self, x: int) -> None:
        object.__setattr__(self, "x", abs(x))


def test_slots_named_fields_subclasses_and_own_constructors_are_as_in_a_dataclass() -> None:
    small = Small(1, z=3)
    assert (small.x, small.y, small.z) == (1, "y", 3)
    assert not hasattr(small, "__dict__")
    assert replace(small, x=2) == Small(2)  # only what goes by position is compared
    assert Below(1, depth=4) == Below(1, 0, (), 4) != Below(1)
    assert repr(Below(1)) == "Below(x=1, y=0, tags=(), depth=1)"
    assert Positive(-2) == Positive(2)


def test_wrong_arguments_are_named() -> None:
    unchecked: Any = Small
    for wrong in ({}, {"x": 1, "w": 2}):
        with pytest.raises(TypeError, match=r"Small.__init__\(\)"):
            unchecked(**wrong)
    with pytest.raises(TypeError, match=r"Small.__init__\(\)"):
        unchecked(1, "y", 3)
    with pytest.raises(FrozenInstanceError):
        unchecked(1).x = 2


def test_threads_that_make_the_first_instance_at_once_each_get_one() -> None:
    for _ in range(50):

        @frozen
        class New:
            x: int

        both = Barrier(2)

        def make(made: type[New] = New, both: Barrier = both) -> int:
            both.wait()
            return made(1).x

        with ThreadPoolExecutor(2) as threads:
            made = [threads.submit(make), threads.submit(make)]
            assert [one.result() for one in made] == [1, 1]
