"""Whether a job is tried again after an end, and after how long a rest. Pure.

Only an end that is known counts: silence is none. How often is counted by the number of the
attempt, so every driver and every agent comes to the same answer. Nobody tries again what a person
ended, or what ran as long as it may.

Where nobody can take a job at present it waits in any case; `no-capacity` is about a job that none
of the agents that are there could ever take.
"""

from datetime import datetime, timedelta

from dstack_scheduler.job import RECLAIMED, JobSpec, JobState, StateChange
from dstack_scheduler.retry import INTERRUPTED, ONCE, Retry

FINAL = frozenset({"time-limit", "secrets-lost", "stopped", "aborted"})
"""Reasons of ends that would come again, or that somebody wanted."""

SHORTEST_REST_SECONDS = 1.0
LONGEST_REST_SECONDS = 60.0
"""A failure rests twice as long each time."""


def retry_of(spec: JobSpec) -> Retry:
    """What holds for a job: what it says, and that an interruptible one goes on elsewhere.

    A node of a gang is not tried again alone: the others know it by its address.
    """
    if spec.node is not None:
        return ONCE
    if spec.retry is not None:
        return spec.retry
    return INTERRUPTED if spec.needs.interruptible else ONCE


def is_tried_again(retry: Retry, change: StateChange, since: datetime) -> bool:
    """Whether an attempt that ended like this is followed by another one.

    Args:
        since: When the run was submitted.
    """
    event = event_of(change)
    return (
        event in retry.events
        and change.key.attempt <= retry.attempts
        and _in_time(retry, change.at, since)
    )


def again_after(spec: JobSpec, change: StateChange) -> bool:
    """The same of a specification, for an agent that tells of its attempt."""
    return is_tried_again(retry_of(spec), change, spec.submitted_at)


def is_searched_again(retry: Retry, tries: int, at: datetime, since: datetime) -> bool:
    """Whether agents are asked again that all said never, after so many searches.

    A duration alone limits the searches; without one their number does.
    """
    counted = tries <= retry.attempts or retry.duration_seconds is not None
    return "no-capacity" in retry.events and counted and _in_time(retry, at, since)


def event_of(change: StateChange) -> str:
    """The word of `RETRY_EVENTS` for an end; empty for one after which nothing is tried again."""
    match change.state:
        case JobState.LOST:
            return "lost"
        case JobState.STOPPED if change.reason == RECLAIMED:
            return "interruption"
        case JobState.FAILED if change.reason not in FINAL:
            return "error"
        case _:
            return ""


def rest_seconds(event: str, attempt: int) -> float:
    """Between the end of an attempt and the next search for an agent; jitter comes on top."""
    if event == "interruption":
        return SHORTEST_REST_SECONDS
    return min(LONGEST_REST_SECONDS, SHORTEST_REST_SECONDS * 2.0 ** min(attempt - 1, 10))


def _in_time(retry: Retry, at: datetime, since: datetime) -> bool:
    limit = retry.duration_seconds
    return limit is None or at - since <= timedelta(seconds=limit)
