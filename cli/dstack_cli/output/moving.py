"""One line that tells how far a transfer is, and how fast it goes: pure, the time is an input."""

from collections import deque

from dstack_cli.output.words import count, duration, size
from dstack_mesh.frozen import frozen

WINDOW_SECONDS = 5.0
"""The speed is that of the last moments: an old one says nothing of how long it will take."""


@frozen
class Moved:
    """Bytes of a transfer at a moment.

    Attributes:
        total: As far as was looked.
        there: What was where it should go already.
        looking: Whether there may be more.
    """

    total: int
    there: int
    moved: int
    files: int
    looking: bool


class Speed:
    """Bytes a second, over the last moments."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, moved: int) -> float:
        """The speed now; 0 while it is not known."""
        self._seen.append((now, moved))
        while now - self._seen[0][0] > WINDOW_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        began, before = self._seen[0]
        return (moved - before) / (now - began) if now > began else 0.0


def moving_line(doing: str, seen: Moved, speed: float) -> str:
    """The line, as "pushing model: 312 MB of ≥ 1.2 GB, 48 MB/s, 19s left, 2.1 GB were there"."""
    travels = max(0, seen.total - seen.there)
    parts = [f"{doing}: {size(seen.moved)} of {'≥ ' if seen.looking else ''}{size(travels)}"]
    if speed >= 1:
        parts.append(f"{size(int(speed))}/s")
        if not seen.looking and travels > seen.moved:
            parts.append(f"{duration((travels - seen.moved) / speed)} left")
    elif seen.moved < travels:
        parts.append("no bytes just now")
    if seen.files:
        parts.append(count(seen.files, "file"))
    if seen.there:
        parts.append(f"{size(seen.there)} were there")
    return ", ".join(parts)
