"""How long nobody has been connected to what a job serves."""

from dataclasses import dataclass

IDLE = "idle-timeout"
"""Reason of a job that was stopped because nobody used it."""


@dataclass(slots=True)
class Idleness:
    """Only counts; told of each connection and asked with the time. Times are steady seconds.

    Attributes:
        since: When the job began to run, or the last connection ended.
    """

    limit_seconds: float
    since: float
    connected: int = 0

    def opened(self) -> None:
        """Somebody is connected."""
        self.connected += 1

    def closed(self, now: float) -> None:
        """One of them is no more."""
        self.connected -= 1
        self.since = now

    def left(self, now: float) -> float | None:
        """Seconds until the job is stopped; None while somebody is connected."""
        return None if self.connected else max(0.0, self.since + self.limit_seconds - now)
