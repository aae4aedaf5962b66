"""What a run tries again, how often, and after which rests."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from dstack_scheduler.again import LONGEST_REST_SECONDS, SHORTEST_REST_SECONDS, rest_seconds
from dstack_scheduler.job import RECLAIMED, JobState, StateChange
from dstack_scheduler.refusal import NoAgentFits, NoAgents
from dstack_scheduler.retry import RETRY_EVENTS, Retry
from dstack_scheduler.run import (
    Changed,
    Effect,
    End,
    Part,
    Place,
    Placed,
    Run,
    StopPlacing,
    Unplaced,
)
from support.small_runs import AT, STOP, ended, key


def tried(retry: Retry, since: datetime = AT) -> Run:
    """A job that may be tried again, placed."""
    run = Run([Part(key(0), "job-0", retry=retry, since=since)])
    run.start()
    run.handle(Placed(key(0)))
    return run


FAILED = StateChange(key(0), JobState.FAILED, AT, "The commands ended.", exit_code=3)
LOST = StateChange(key(0), JobState.LOST, AT, reason="shim-lost")
TAKEN_BACK = StateChange(key(0), JobState.STOPPED, AT, "ana took GPU 0 back.", RECLAIMED)


@pytest.mark.parametrize(
    ("event", "change"), [("error", FAILED), ("lost", LOST), ("interruption", TAKEN_BACK)]
)
def test_a_job_is_tried_again_after_what_it_says_and_nothing_else(
    event: str, change: StateChange
) -> None:
    others = tuple(each for each in RETRY_EVENTS if each != event)

    (again,) = tried(Retry(3, (event,))).handle(Changed(change))
    (end,) = tried(Retry(3, others)).handle(Changed(change))

    assert isinstance(again, Place)
    assert (again.key, again.because) == (key(0, 2), change)
    assert isinstance(end, End)


def test_a_job_is_tried_so_often_and_then_its_last_end_counts() -> None:
    run = tried(Retry(2))
    for attempt in (1, 2):
        run.handle(Changed(replace(FAILED, key=key(0, attempt))))
        run.handle(Placed(key(0, attempt + 1)))

    (end,) = run.handle(Changed(replace(FAILED, key=key(0, 3))))

    assert isinstance(end, End)
    assert end.state.key == key(0, 3)


def test_rests_grow_and_stay_bounded() -> None:
    rests = [rest_seconds("error", attempt) for attempt in range(1, 101)]
    assert rests == sorted(rests)
    assert (rests[0], rests[-1]) == (SHORTEST_REST_SECONDS, LONGEST_REST_SECONDS)
    assert rest_seconds("interruption", 100) == SHORTEST_REST_SECONDS


def test_after_its_duration_nothing_is_tried_again() -> None:
    hour = Retry(3, duration_seconds=3600.0)
    late = replace(FAILED, at=AT + timedelta(hours=1, seconds=1))

    assert isinstance(tried(hour).handle(Changed(FAILED))[0], Place)
    assert isinstance(tried(hour).handle(Changed(late))[0], End)


@pytest.mark.parametrize("reason", ["time-limit", "secrets-lost"])
def test_what_would_end_the_same_way_is_not_tried_again(reason: str) -> None:
    assert isinstance(tried(Retry(3)).handle(Changed(replace(FAILED, reason=reason)))[0], End)


def test_what_a_person_stopped_is_not_tried_again() -> None:
    run = tried(Retry(3))
    run.handle(STOP)

    (end,) = run.handle(ended(0, JobState.FAILED, 143))

    assert isinstance(end, End)


def test_a_stop_while_a_job_rests_ends_the_run() -> None:
    run = tried(Retry(3))
    run.handle(Changed(FAILED))

    assert run.handle(STOP) == [StopPlacing(0)]
    (end,) = run.handle(Unplaced(0, None, AT))

    assert isinstance(end, End)
    assert end.state.state is JobState.STOPPED


def test_a_dependant_waits_until_the_last_attempt_is_done() -> None:
    parts = [Part(key(0), "a", retry=Retry(1), since=AT), Part(key(1), "b", (0,))]
    run = Run(parts)
    run.start()
    run.handle(Placed(key(0)))
    (again,) = run.handle(Changed(FAILED))
    assert isinstance(again, Place)
    run.handle(Placed(key(0, 2)))

    after = run.handle(Changed(replace(FAILED, key=key(0, 2), state=JobState.DONE)))

    assert after == [Place(key(1))]


def test_agents_that_can_never_are_asked_again_only_where_the_job_says_so() -> None:
    def asked(retry: Retry) -> Effect:
        run = Run([Part(key(0), "job-0", retry=retry, since=AT)])
        run.start()
        return run.handle(Unplaced(0, NoAgentFits("No agent fits."), AT))[0]

    assert asked(Retry(1, ("no-capacity",))) == Place(key(0), LONGEST_REST_SECONDS)
    assert isinstance(asked(Retry(1, ("error",))), End)


def test_searches_are_counted_unless_a_duration_limits_them() -> None:
    for duration, last in ((None, End), (7200.0, Place)):
        retry = Retry(2, ("no-capacity",), duration)
        run = Run([Part(key(0), "job-0", retry=retry, since=AT)])
        run.start()
        effects = [run.handle(Unplaced(0, NoAgents("Nobody."), AT))[0] for _ in range(3)]
        assert isinstance(effects[-1], last)
