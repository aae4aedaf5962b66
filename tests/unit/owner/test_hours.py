"""Hours of the week: what is written, when they hold, when they begin next."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_scheduler.hours import Window, clock, covered, next_begin, parse_window

MONDAY = datetime(2026, 11, 23)
MINUTES = st.integers(0, 7 * 24 * 60 - 1)


def _window(days: frozenset[int], start: int, length: int) -> Window:
    end = start + length
    return Window(days, start, end if end <= 1440 else end - 1440, "")


WINDOWS = st.builds(
    _window,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1439),
)


def at(text: str) -> datetime:
    """A moment of that week: "fri 19:30"."""
    day, _, time = text.partition(" ")
    hour, minute = time.split(":")
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun").index(day)
    return MONDAY + timedelta(days=days, hours=int(hour), minutes=int(minute))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (
            "weekdays 19:00-08:00",
            ["mon 19:00", "sat 07:59", "wed 03:00"],
            ["mon 07:00", "sat 08:00"],
        ),
        ("weekdays 19:00-08:00", ["fri 23:00"], ["sat 19:00", "sun 23:00", "mon 18:59"]),
        ("weekends", ["sat 00:00", "sun 23:59"], ["fri 23:59", "mon 00:00"]),
        (
            "sat,sun 10:00-20:00",
            ["sat 10:00", "sun 19:59"],
            ["sat 09:59", "mon 12:00"],
        ),
        ("22:00-06:00", ["wed 22:00", "thu 05:59"], ["thu 06:00", "thu 21:59"]),
        ("fri-mon 00:00-24:00", ["fri 00:00", "mon 23:59"], ["tue 00:00", "thu 23:59"]),
        ("Mon, Wednesday 8:00-9:00", ["wed 08:30"], ["tue 08:30", "wed 09:00"]),
        ("sun 23:00-01:00", ["mon 00:30"], ["mon 01:00", "sat 23:30"]),
        ("daily 18:00-00:00", ["mon 23:59"], ["mon 00:00"]),
    ],
)
def test_hours_mean_what_is_written(text: str, inside: list[str], outside: list[str]) -> None:
    window = parse_window(text)
    assert [each for each in inside if not window.covers(at(each))] == []
    assert [each for each in outside if window.covers(at(each))] == []


@pytest.mark.parametrize(
    "text",
    [
        "25:00-08:00",
        "19:00-19:00",
        "someday 19:00-08:00",
        "19:00",
        "weekdays 19-08",
        "",
        "19:60-20:00",
    ],
)
def test_what_is_no_hours_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        parse_window(text)


@given(st.lists(WINDOWS, min_size=1, max_size=3), MINUTES)
def test_the_next_begin_is_the_first_moment_at_which_it_holds_again(
    windows: list[Window], minute: int
) -> None:
    now = MONDAY + timedelta(minutes=minute)
    if covered(windows, now):
        return
    begins = next_begin(windows, now)
    assert covered(windows, begins)
    assert now < begins <= now + timedelta(days=7)
    step = now
    while step < begins:
        assert not covered(windows, step)
        step += timedelta(minutes=1)


@given(WINDOWS)
def test_a_window_holds_as_long_in_a_week_as_it_is_long_on_its_days(window: Window) -> None:
    length = (window.end - window.start) % 1440 or 1440
    week = (MONDAY + timedelta(minutes=minute) for minute in range(7 * 1440))
    assert sum(window.covers(moment) for moment in week) == length * len(window.days)


def test_a_moment_is_told_as_people_say_it() -> None:
    now = at("wed 14:20")
    assert clock(at("wed 19:00"), now) == "19:00"
    assert clock(at("thu 08:00"), now) == "tomorrow 08:00"
    assert clock(at("sat 08:00"), now) == "Saturday 08:00"
