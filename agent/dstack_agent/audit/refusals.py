"""Which refused calls are worth a line: the first of a kind, and later how many there were. Pure.

Whoever calls ten thousand times a second what it may not must not push out of the log what it did
before: at most `MOST_KINDS` lines of their own in a window, and as many that count.
"""

from collections import Counter

from dstack_agent.audit.entry import Entry, What
from dstack_mesh.frozen import frozen

WINDOW_SECONDS = 600.0
MOST_KINDS = 5


@frozen
class Refusal:
    """A kind of refused call.

    Attributes:
        who: As in an entry.
        code: Of the error.
    """

    who: str
    name: str
    role: str
    method: str
    code: str

    def entry(self, more: int = 0) -> Entry:
        """The line: of the first one, or of those that followed."""
        why = f"{self.code}, {more:,} more times" if more else self.code
        return Entry(What.REFUSED, self.who, self.method, self.name, self.role, why)


class Refusals:
    """Counts refused calls."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._counts: Counter[Refusal] = Counter()
        self._others = 0

    def heard(self, refusal: Refusal, now: float) -> list[Entry]:
        """A call was refused; what to write."""
        due = self.due(now)
        if self._began is None:
            self._began = now
        if refusal not in self._counts and len(self._counts) >= MOST_KINDS:
            self._others += 1
            return due
        self._counts[refusal] += 1
        return due if self._counts[refusal] > 1 else [*due, refusal.entry()]

    def due(self, now: float) -> list[Entry]:
        """What to write because a window ended."""
        if self._began is None or now - self._began < WINDOW_SECONDS:
            return []
        counted = [one.entry(count - 1) for one, count in self._counts.items() if count > 1]
        if self._others:
            why = f"{self._others:,} more calls, of other kinds"
            counted.append(Entry(What.REFUSED, "several", "several", why=why))
        self._began, self._others = None, 0
        self._counts.clear()
        return counted
