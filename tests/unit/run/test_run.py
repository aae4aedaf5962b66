"""A run from event to effect: order, failure, stop and abort in every state."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.faults import Busy, Refused
from dstack_scheduler.job import JobKey, JobState, StateChange
from dstack_scheduler.retry import ONCE, Retry
from dstack_scheduler.run import (
    Changed,
    Effect,
    End,
    Event,
    Follow,
    Part,
    Place,
    Placed,
    PlaceGang,
    Run,
    StopJob,
    StopPlacing,
    Unplaced,
    Vanished,
)
from support.small_runs import ABORT, AT, STOP, chain, ended, key


def diamond() -> Run:
    """a, then b and c beside each other, then d."""
    afters: list[tuple[int, ...]] = [(), (0,), (0,), (1, 2)]
    return Run([Part(key(n), "abcd"[n], after) for n, after in enumerate(afters)])


def test_only_what_needs_nothing_starts() -> None:
    assert chain().start() == [Place(key(0))]


def test_a_placed_job_is_followed_and_the_next_starts_when_it_is_done() -> None:
    run = chain()
    run.start()

    assert run.handle(Placed(key(0))) == [Follow(key(0))]
    assert run.handle(ended(0)) == [Place(key(1))]


def test_the_run_ends_like_the_job_that_was_asked_for() -> None:
    run = chain(1)
    run.start()
    run.handle(Placed(key(0)))

    (end,) = run.handle(ended(0, JobState.FAILED, 137))

    assert isinstance(end, End)
    assert (end.state.state, end.state.exit_code) == (JobState.FAILED, 137)


def test_jobs_that_need_the_same_run_beside_each_other() -> None:
    run = diamond()
    run.start()
    run.handle(Placed(key(0)))

    assert run.handle(ended(0)) == [Place(key(1)), Place(key(2))]
    run.handle(Placed(key(1)))
    run.handle(Placed(key(2)))
    assert run.handle(ended(2)) == []
    assert run.handle(ended(1)) == [Place(key(3))]


def test_a_failed_dependency_ends_the_run_and_is_named() -> None:
    run = chain()
    run.start()
    run.handle(Placed(key(0)))

    (end,) = run.handle(ended(0, JobState.FAILED, 3))

    assert isinstance(end, End)
    assert end.state.key == key(0)
    assert end.state.exit_code == 3
    assert "job-0" in end.state.cause


def test_what_runs_in_vain_is_stopped_before_the_run_ends() -> None:
    run = diamond()
    run.start()
    run.handle(Placed(key(0)))
    run.handle(ended(0))
    run.handle(Placed(key(1)))
    run.handle(Placed(key(2)))

    (stop,) = run.handle(ended(1, JobState.FAILED, 1))
    assert isinstance(stop, StopJob)
    assert (stop.key, stop.abort) == (key(2), False)
    (end,) = run.handle(ended(2, JobState.STOPPED, None))

    assert isinstance(end, End)
    assert end.state.key == key(1)


def test_a_job_that_nobody_takes_ends_the_run() -> None:
    run = chain()
    run.start()

    (end,) = run.handle(Unplaced(0, Busy("No agent."), AT))

    assert isinstance(end, End)
    assert (end.state.state, end.state.reason) == (JobState.FAILED, "busy")


def test_whatever_words_an_error_has_they_can_be_read_again() -> None:
    run = chain()
    run.start()

    (end,) = run.handle(Unplaced(0, Refused("No\0 agent.", code="a\nb"), AT))

    assert isinstance(end, End)
    assert (end.state.cause, end.state.reason) == ("job-0: No agent.", "ab")


def test_stop_while_a_job_is_placed_gives_the_search_up() -> None:
    run = chain()
    run.start()

    assert run.handle(STOP) == [StopPlacing(0)]
    (end,) = run.handle(Unplaced(0, None, AT))

    assert isinstance(end, End)
    assert (end.state.state, end.state.cause) == (JobState.STOPPED, "stopped by ana")


def test_stop_that_comes_with_the_award_stops_the_job_at_its_agent() -> None:
    run = chain()
    run.start()
    run.handle(STOP)

    effects = run.handle(Placed(key(0)))

    assert effects == [Follow(key(0)), StopJob(key(0), abort=False, cause="stopped by ana")]


def test_abort_after_stop_is_asked_once_more_and_stop_after_abort_is_not() -> None:
    run = chain()
    run.start()
    run.handle(Placed(key(0)))

    assert len(run.handle(STOP)) == 1
    assert run.handle(STOP) == []
    assert run.handle(ABORT) == [StopJob(key(0), abort=True, cause="aborted by ana")]
    assert run.handle(STOP) == []


def test_a_job_that_is_done_before_the_stop_reaches_it_starts_nothing_further() -> None:
    run = chain()
    run.start()
    run.handle(Placed(key(0)))
    run.handle(STOP)

    (end,) = run.handle(ended(0))

    assert isinstance(end, End)
    assert (end.state.key, end.state.state) == (key(1), JobState.STOPPED)


def test_the_last_job_that_is_done_before_the_stop_reaches_it_is_done() -> None:
    run = chain(1)
    run.start()
    run.handle(Placed(key(0)))
    run.handle(STOP)

    (end,) = run.handle(ended(0))

    assert isinstance(end, End)
    assert end.state.state is JobState.DONE


def test_an_attempt_that_never_began_is_made_again_under_the_next_number() -> None:
    run = chain()
    run.start()
    run.handle(Placed(key(0)))

    assert run.handle(Vanished(key(0))) == [Place(key(0, 2))]
    assert run.handle(Vanished(key(0))) == []


def test_an_attempt_that_never_began_is_not_made_again_after_a_stop() -> None:
    run = chain()
    run.start()
    run.handle(Placed(key(0)))
    run.handle(STOP)

    (end,) = run.handle(Vanished(key(0)))

    assert isinstance(end, End)
    assert end.state.state is JobState.STOPPED


def test_a_run_that_is_taken_over_follows_what_runs_and_places_the_rest() -> None:
    run = Run([Part(key(0), "a", (), awarded=True), Part(key(1), "b", (0,))])

    assert run.start() == [Follow(key(0))]
    assert run.handle(ended(0)) == [Place(key(1))]


def test_a_state_that_is_told_twice_has_one_effect() -> None:
    run = chain()
    run.start()
    run.handle(Placed(key(0)))
    run.handle(ended(0))

    assert run.handle(ended(0)) == []


def test_several_last_jobs_are_all_waited_for() -> None:
    run = Run([Part(key(0), "a"), Part(key(1), "b", (0,)), Part(key(2), "c", (0,))])
    run.start()
    run.handle(Placed(key(0)))
    run.handle(ended(0))
    run.handle(Placed(key(1)))
    run.handle(Placed(key(2)))

    assert run.handle(ended(2)) == []
    (end,) = run.handle(ended(1))

    assert isinstance(end, End)
    assert (end.state.key.job, end.state.state) == (2, JobState.DONE)


TRIES = 2


class Player:
    """Answers effects the way a driver would, in an order that is drawn."""

    def __init__(self, run: Run, draw: st.DataObject) -> None:
        self.run = run
        self.draw = draw
        self.pending: list[Event] = []
        self.ends: list[End] = []
        self.placed: set[JobKey] = set()
        self.done: set[int] = set()

    def take(self, effects: Sequence[Effect], afters: Sequence[tuple[int, ...]]) -> None:
        for effect in effects:
            match effect:
                case Place(where):
                    assert all(job in self.done for job in afters[where.job])
                    self.pending.append(self.draw.draw(st.sampled_from(placings(where))))
                case PlaceGang(wheres):
                    for where in wheres:
                        assert all(job in self.done for job in afters[where.job])
                        self.pending.append(self.draw.draw(st.sampled_from(placings(where))))
                case Follow(where):
                    assert where not in self.placed
                    assert where.attempt <= 1 + TRIES
                    self.placed.add(where)
                    state = self.draw.draw(st.sampled_from([JobState.DONE, JobState.FAILED]))
                    self.pending.append(Changed(StateChange(where, state, AT)))
                case StopPlacing() | StopJob():
                    pass
                case End():
                    self.ends.append(effect)


def placings(where: JobKey) -> list[Event]:
    return [Placed(where), Unplaced(where.job, None, AT), Unplaced(where.job, Busy("x"), AT)]


@given(st.data())
def test_every_run_ends_exactly_once_whatever_happens_in_whatever_order(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(1, 6))
    afters = [
        tuple(data.draw(st.sets(st.integers(0, n - 1), max_size=n))) if n else ()
        for n in range(count)
    ]
    gangs = {node: () for node in range(count)}
    if count > 2 and data.draw(st.booleans()):
        first = data.draw(st.integers(0, count - 2))
        gang = tuple(range(first, data.draw(st.integers(first + 2, count))))
        gangs |= dict.fromkeys(gang, gang)
        for node in gang:
            afters[node] = afters[first]
        # Whoever needs a gang needs its master, as plans say it.
        afters = [tuple(sorted({(gangs[job] or (job,))[0] for job in one})) for one in afters]
    retries = [data.draw(st.sampled_from([ONCE, Retry(TRIES)])) for _ in afters]
    run = Run(
        [
            Part(key(n), f"job-{n}", after, False, ONCE if gangs[n] else retry, AT, gangs[n])
            for n, (after, retry) in enumerate(zip(afters, retries, strict=True))
        ]
    )
    player = Player(run, data)
    player.take(run.start(), afters)
    asks = data.draw(st.lists(st.sampled_from([STOP, ABORT]), max_size=2))
    player.pending += asks
    while player.pending:
        event = player.pending.pop(data.draw(st.integers(0, len(player.pending) - 1)))
        if isinstance(event, Unplaced) and event.error is None and not run.stopping:
            continue_with: Event = Placed(run.key(event.job))
            event = continue_with
        if isinstance(event, Changed) and event.change.state is JobState.DONE:
            player.done.add(event.change.key.job)
        player.take(run.handle(event), afters)

    assert len(player.ends) == 1
    assert player.ends[0].state.state.ended


def test_a_search_is_given_up_once_however_much_happens_meanwhile() -> None:
    run = Run([Part(key(index), f"job-{index}") for index in range(3)])
    run.start()

    assert run.handle(STOP) == [StopPlacing(0), StopPlacing(1), StopPlacing(2)]
    assert run.handle(Unplaced(0, None, AT)) == []
