"""Ends of pauses as people write them: "18:00", "2h"."""

import re
from datetime import datetime, timedelta

from dstack_mesh.faults import Invalid
from dstack_scheduler.spans import parse_span

_TIME = re.compile(r"(\d{1,2}):(\d{2})\Z")


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
