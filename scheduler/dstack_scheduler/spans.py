"""Spans of time as people write them: "5s", "30m", "1h30m", "2d"."""

import re

LONGEST_SECONDS = 366 * 86400.0

_SPAN = re.compile(r"(?:[0-9]{1,6}[smhdw])+\Z")
_PART = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


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
