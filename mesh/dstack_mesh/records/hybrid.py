"""Hybrid time: the time of day where clocks agree, and still an order where they do not. Pure."""

from dataclasses import dataclass

AHEAD_MS = 60_000
"""A peer whose clock is further ahead pulls nobody else's time forward."""

ABSURD_MS = 86_400_000
"""What claims to be from more than a day ahead is refused."""


@dataclass(frozen=True, slots=True, order=True)
class Hybrid:
    """Milliseconds since 1970, and a count for what happened within one of them."""

    ms: int = 0
    count: int = 0

    def next(self, now_ms: int) -> "Hybrid":
        """The time of an event after this one."""
        return Hybrid(now_ms) if now_ms > self.ms else Hybrid(self.ms, self.count + 1)

    def hearing(self, other: "Hybrid", now_ms: int) -> "Hybrid":
        """The later of both, unless the other one is of a clock that is wrong."""
        return max(self, other) if other.ms <= now_ms + AHEAD_MS else self

    def absurd(self, now_ms: int) -> bool:
        """Whether no clock that is nearly right could say so."""
        return self.ms > now_ms + ABSURD_MS
