"""Which of the things that happen often are worth a line: the first of a kind, and later how many
there were. Pure.

Whoever does ten thousand times a second what is written down must not push out of the log what
happened before: at most `MOST_KINDS` lines of their own in a window, and as many that count.
"""

from collections import Counter
from dataclasses import replace

from dstack_agent.audit.entry import Entry, What

WINDOW_SECONDS = 600.0
MOST_KINDS = 5


class Repeats:
    """Counts entries that say the same, of one sort of things that happen."""

    def __init__(self, what: What) -> None:
        self._what = what
        self._began: float | None = None
        self._counts: Counter[Entry] = Counter()
        self._others = 0

    def heard(self, entry: Entry, now: float) -> list[Entry]:
        """It happened; what to write."""
        due = self.due(now)
        if self._began is None:
            self._began = now
        if entry not in self._counts and len(self._counts) >= MOST_KINDS:
            self._others += 1
            return due
        self._counts[entry] += 1
        return due if self._counts[entry] > 1 else [*due, entry]

    def due(self, now: float) -> list[Entry]:
        """What to write because a window ended."""
        if self._began is None or now - self._began < WINDOW_SECONDS:
            return []
        counted = [_again(one, count - 1) for one, count in self._counts.items() if count > 1]
        if self._others:
            why = f"{self._others:,} more, of other kinds"
            counted.append(Entry(self._what, "several", "several", why=why))
        self._began, self._others = None, 0
        self._counts.clear()
        return counted


def _again(entry: Entry, times: int) -> Entry:
    more = f"{times:,} more times"
    return replace(entry, why=f"{entry.why}, {more}" if entry.why else more)
