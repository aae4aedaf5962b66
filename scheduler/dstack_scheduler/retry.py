"""What a workflow says of trying its job again."""

from dstack_mesh.frozen import frozen

RETRY_EVENTS = ("error", "interruption", "lost", "no-capacity")
"""After what a job may be tried again: it failed, its machine was taken back, its agent was lost,
nobody could take it."""

MOST_ATTEMPTS = 100
"""More than that is a loop that nobody watches."""


@frozen
class Retry:
    """When a job is tried again.

    Attributes:
        attempts: How often at most, the first attempt not counted.
        events: After which of `RETRY_EVENTS`.
        duration_seconds: For how long after the run began; None for no limit.
    """

    attempts: int = 3
    events: tuple[str, ...] = RETRY_EVENTS
    duration_seconds: float | None = None


ONCE = Retry(0, ())
"""Of a job that is not tried again."""

INTERRUPTED = Retry(MOST_ATTEMPTS, ("interruption",))
"""Of an `interruptible` job that says nothing of retries."""
