"""Hours of the week, as people write them: "weekdays 19:00-08:00".

A window belongs to the day on which it begins: "fri 19:00-08:00" ends on Saturday morning. Times
are those of the machine's clock on the wall; on the day on which that is set forward or back, a
window is as much shorter or longer.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from dstack_mesh.frozen import frozen

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY_MINUTES = 24 * 60

_GROUPS = {
    "daily": frozenset(range(7)),
    "weekdays": frozenset(range(5)),
    "weekends": frozenset({5, 6}),
}
_TIMES = re.compile(r"(\d{1,2}):(\d{2}) ?- ?(\d{1,2}):(\d{2})\Z")


@frozen
class Window:
    """A part of the week.

    Attributes:
        days: On which it begins; Monday is 0.
        start: Minutes since midnight.
        end: Likewise, up to 1440; not after `start` where it ends on the next day.
        text: As it was written.
    """

    days: frozenset[int]
    start: int
    end: int
    text: str

    def covers(self, at: datetime) -> bool:
        """Whether a moment of the wall clock is within it."""
        day, minute = at.weekday(), at.hour * 60 + at.minute
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        began_today = day in self.days and minute >= self.start
        return began_today or ((day - 1) % 7 in self.days and minute < self.end)

    def begins_after(self, at: datetime) -> datetime:
        """When it begins next, after a moment."""
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        begins = (
            midnight + timedelta(days=ahead, minutes=self.start)
            for ahead in range(8)
            if (at.weekday() + ahead) % 7 in self.days
        )
        return min(moment for moment in begins if moment > at)


def covered(windows: Iterable[Window], at: datetime) -> bool:
    """Whether one of the windows covers a moment."""
    return any(window.covers(at) for window in windows)


def next_begin(windows: Iterable[Window], at: datetime) -> datetime:
    """When the next of the windows begins. There must be one."""
    return min(window.begins_after(at) for window in windows)


def parse_window(text: str) -> Window:
    """Reads "weekdays 19:00-08:00", "sat,sun 08:00-20:00", "weekends" or "22:00-06:00".

    Raises:
        ValueError: It is written otherwise; the message says how.
    """
    words = " ".join(text.lower().split())
    days, _, times = words.rpartition(" ") if ":" in words.rpartition(" ")[2] else (words, "", "")
    if not words:
        raise ValueError("it is empty")
    if " - " in words:
        raise ValueError("there is no blank around the dash, as 19:00-08:00")
    start, end = _times(times) if times else (0, DAY_MINUTES)
    return Window(_days(days) if days else _GROUPS["daily"], start, end, " ".join(text.split()))


def clock(at: datetime, now: datetime) -> str:
    """A moment of the coming week for people: "19:00", "tomorrow 19:00", "Monday 19:00"."""
    ahead = (at.date() - now.date()).days
    if ahead > 6:
        return at.strftime("%Y-%m-%d %H:%M")
    day = {0: "", 1: "tomorrow "}.get(ahead, f"{DAYS[at.weekday()].capitalize()} ")
    return f"{day}{at:%H:%M}"


def _times(text: str) -> tuple[int, int]:
    found = _TIMES.match(text)
    if found is None:
        raise ValueError(f'"{text}" is not a time of day to another, as 19:00-08:00')
    start, end = (_minute(found[1], found[2]), _minute(found[3], found[4]))
    if start in (end, DAY_MINUTES):
        raise ValueError("it ends when it begins; for a whole day leave the time away")
    return start, end or DAY_MINUTES


def _minute(hour: str, minute: str) -> int:
    minutes = int(hour) * 60 + int(minute)
    if minutes > DAY_MINUTES or int(minute) > 59:
        raise ValueError(f'"{hour}:{minute}" is not a time of day')
    return minutes


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for word in re.split(r"[, ]+", text):
        first, dash, last = word.partition("-")
        if word in _GROUPS:
            days |= _GROUPS[word]
        elif dash:
            begin, end = _day(first), _day(last)
            days |= {day % 7 for day in range(begin, end + 1 if begin <= end else end + 8)}
        else:
            days.add(_day(word))
    return frozenset(days)


def _day(word: str) -> int:
    for number, day in enumerate(DAYS):
        if len(word) >= 2 and day.startswith(word):
            return number
    raise ValueError(f'"{word}" is no day; write weekdays, weekends, daily, mon, or mon-fri')
