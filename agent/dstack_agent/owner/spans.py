"""Spans of time as people write them: "5s", "30m", "1h30m", "2d"."""

import re
from datetime import datetime, timedelta

from dstack_mesh.faults import Invalid

LONGEST_SECONDS = 366 * 86400.0

_SPAN = re.compile(r"(?:\d{1,6}[smhd])+\Z")
_PART = re.compile(r"(\d+)([smhd])")
_TIME = re.compile(r"(\d{1,2}):(\d{2})\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_span(text: str) -> float:
    """Seconds of a span.

    Raises:
        ValueError: It is written otherwise, or longer than a year; the message says how.
    """
    word = text.strip().lower().replace(" ", "")
    if not _SPAN.match(word):
        raise ValueError("It must be a span of time, as 5s, 30m, 4h or 1h30m")
    seconds = float(sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(word)))
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError("It must be longer than nothing and no longer than a year")
    return seconds


def parse_until(text: str, now: datetime) -> datetime:
    """The moment that "18:00" (the next time it is that) or "30m" (from now) means.

    Args:
        now: With the zone of the person's clock.

    Raises:
        Invalid: It is written otherwise.
    """
    found = _TIME.match(text.strip())
    if found is None:
        try:
            return now + timedelta(seconds=parse_span(text))
        except ValueError as error:
            raise _unreadable(text) from error
    try:
        today = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
    except ValueError as error:
        raise _unreadable(text) from error
    return today if today > now else today + timedelta(days=1)


def _unreadable(text: str) -> Invalid:
    return Invalid(
        f'"{text}" is no end of a pause.',
        "It is a time of day or a span of time, up to a year.",
        "dstack-runner pause --until 18:00\ndstack-runner pause --until 2h",
        "bad-time",
    )
