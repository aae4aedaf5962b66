"""Stories of an attempt: every phase against every event, and what a restart makes of it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.executor.port import Ended
from dstack_agent.jobs.attempt import Attempt, step
from dstack_agent.jobs.effect import (
    Attend,
    Drop,
    Effect,
    EndCommands,
    Enter,
    Finish,
    Forget,
    Launch,
    Prepare,
    Save,
)
from dstack_agent.jobs.event import (
    Begin,
    CommandsEnded,
    Event,
    Launched,
    Noted,
    NotLaunched,
    NotPrepared,
    NotSaved,
    Prepared,
    Reloaded,
    Saved,
    StopAsked,
)
from dstack_agent.jobs.phase import LEGAL, Over
from dstack_agent.jobs.resume import resume
from dstack_mesh.ids import RunId
from dstack_scheduler.job import RECLAIMED, JobKey, JobState, StateChange

KEY = JobKey(RunId("0" * 26), 0, 1)
AT = datetime(2026, 1, 1, tzinfo=UTC)
STOP = StopAsked(False, "stopped by ana@laptop")
ABORT = StopAsked(True, "aborted by ana@laptop")
RECLAIM = StopAsked(False, "The owner of ws-2 took GPU 0 back.", RECLAIMED, 5.0)
WELL = CommandsEnded(Ended(0))
LIMIT = CommandsEnded(Ended(143, "time-limit", "It ran for 60 s."))
BADLY = CommandsEnded(Ended(3, "", "The commands ended with exit code 3."))
KILLED = CommandsEnded(Ended(143, "stopped", ""))
GONE = CommandsEnded(Ended(None, "shim-lost", "The machine was restarted."))

TO_PREPARING: tuple[Event, ...] = (Begin(),)
TO_LAUNCHING = (*TO_PREPARING, Prepared())
TO_RUNNING = (*TO_LAUNCHING, Launched())
TO_STOPPING = (*TO_RUNNING, STOP)
TO_ABORTING = (*TO_RUNNING, ABORT)
TO_SAVING = (*TO_RUNNING, WELL)
TO_DONE = (*TO_SAVING, Saved())


def play(*events: Event) -> tuple[Attempt, list[Effect]]:
    attempt, effects = Attempt(), list[Effect]()
    for event in events:
        attempt, more = step(attempt, event)
        effects += more
    return attempt, effects


def told(effects: list[Effect]) -> str:
    """Effects in one line, for comparing stories."""
    words: list[str] = []
    for effect in effects:
        match effect:
            case Enter(state, _, reason):
                words.append(f"{state.value}({reason})" if reason else state.value)
            case Finish(verdict):
                words.append(f"FIN {verdict.state.value}")
            case EndCommands(abort, grace):
                words.append("kill" if abort else "terminate" if grace is None else f"in {grace:g}")
            case Save(complete):
                words.append("save" if complete else "save-partial")
            case Prepare() | Launch() | Attend() | Drop() | Forget():
                words.append(type(effect).__name__.lower())
    return " ".join(words)


STORIES: list[tuple[tuple[Event, ...], str]] = [
    (TO_DONE, "preparing prepare launch running attend saving drop save FIN done"),
    ((STOP,), "drop FIN stopped"),
    ((ABORT,), "drop FIN aborted"),
    ((*TO_PREPARING, STOP), "preparing prepare drop FIN stopped"),
    ((*TO_PREPARING, ABORT), "preparing prepare drop FIN aborted"),
    ((*TO_PREPARING, NotPrepared("disk-full", "")), "preparing prepare FIN failed"),
    ((*TO_PREPARING, Noted("inputs"), Prepared()), "preparing prepare preparing launch"),
    ((*TO_LAUNCHING, NotLaunched("docker-error", "")), "preparing prepare launch FIN failed"),
    (
        (*TO_LAUNCHING, STOP, Launched(), KILLED, Saved()),
        "preparing prepare launch stopping(stopped) terminate attend terminate saving drop save"
        " FIN stopped",
    ),
    (
        (*TO_LAUNCHING, STOP, ABORT, Launched(), KILLED),
        "preparing prepare launch stopping(stopped) terminate aborting(aborted) kill attend kill"
        " drop forget FIN aborted",
    ),
    (
        (*TO_LAUNCHING, STOP, RECLAIM, Launched()),
        "preparing prepare launch stopping(stopped) terminate attend in 5",
    ),
    (
        (*TO_LAUNCHING, STOP, NotLaunched("docker-error", "")),
        "preparing prepare launch stopping(stopped) terminate FIN stopped",
    ),
]

AFTER_RUNNING: list[tuple[tuple[Event, ...], str]] = [
    ((BADLY, Saved()), "saving drop save-partial FIN failed"),
    ((LIMIT, Saved()), "saving drop save-partial FIN failed"),
    ((GONE, Saved()), "saving drop save-partial FIN lost"),
    ((WELL, NotSaved("disk-full", "")), "saving drop save FIN failed"),
    ((BADLY, NotSaved("disk-full", "")), "saving drop save-partial FIN failed"),
    ((STOP, KILLED, Saved()), "stopping(stopped) terminate saving drop save FIN stopped"),
    ((STOP, WELL, Saved()), "stopping(stopped) terminate saving drop save FIN stopped"),
    ((STOP, STOP), "stopping(stopped) terminate"),
    ((STOP, GONE, Saved()), "stopping(stopped) terminate saving drop save-partial FIN lost"),
    (
        (STOP, ABORT, KILLED),
        "stopping(stopped) terminate aborting(aborted) kill drop forget FIN aborted",
    ),
    ((ABORT, KILLED), "aborting(aborted) kill drop forget FIN aborted"),
    ((ABORT, STOP), "aborting(aborted) kill"),
    ((ABORT, GONE), "aborting(aborted) kill drop forget FIN aborted"),
    ((RECLAIM, WELL, Saved()), "stopping(reclaimed) in 5 saving drop save FIN stopped"),
    ((RECLAIM, RECLAIM), "stopping(reclaimed) in 5"),
    ((STOP, RECLAIM, KILLED), "stopping(stopped) terminate in 5 saving drop save"),
    ((RECLAIM, STOP), "stopping(reclaimed) in 5"),
    ((RECLAIM, ABORT), "stopping(reclaimed) in 5 aborting(aborted) kill"),
    ((ABORT, RECLAIM), "aborting(aborted) kill"),
    ((WELL, RECLAIM, Saved()), "saving drop save FIN done"),
    ((WELL, STOP, Saved()), "saving drop save FIN done"),
    ((Reloaded(), WELL, Saved()), "running(reloaded) saving drop save FIN done"),
    ((STOP, Reloaded(), KILLED), "stopping(stopped) terminate saving drop save"),
    ((WELL, ABORT, Saved()), "saving drop save drop forget FIN aborted"),
]


@pytest.mark.parametrize(("events", "story"), STORIES)
def test_an_attempt_that_was_not_running_yet(events: tuple[Event, ...], story: str) -> None:
    assert told(play(*events)[1]) == story


@pytest.mark.parametrize(("events", "story"), AFTER_RUNNING)
def test_an_attempt_that_ran(events: tuple[Event, ...], story: str) -> None:
    before = told(play(*TO_RUNNING)[1])
    assert told(play(*TO_RUNNING, *events)[1]) == f"{before} {story}"


def test_a_job_that_was_asked_to_go_says_who_took_the_machine_back() -> None:
    for events in (TO_PREPARING, TO_LAUNCHING, TO_RUNNING):
        ended = (Launched(), KILLED, Saved()) if events == TO_LAUNCHING else (KILLED, Saved())
        last = play(*events, RECLAIM, *ended)[1][-1]
        assert isinstance(last, Finish)
        assert (last.verdict.state, last.verdict.reason) == (JobState.STOPPED, RECLAIMED)
        assert last.verdict.cause == RECLAIM.cause


def test_the_last_word_carries_exit_code_reason_and_cause() -> None:
    _, effects = play(
        *TO_RUNNING,
        CommandsEnded(Ended(137, "out-of-memory", "It used 2 GiB.")),
        Saved("The folder model is empty."),
    )
    finish = effects[-1]
    assert isinstance(finish, Finish)
    assert (finish.verdict.exit_code, finish.verdict.reason) == (137, "out-of-memory")
    assert finish.verdict.cause == "It used 2 GiB. The folder model is empty."


def test_artifacts_that_cannot_be_saved_turn_done_into_failed_by_our_side() -> None:
    _, effects = play(*TO_SAVING, NotSaved("disk-full", "No room."))
    finish = effects[-1]
    assert isinstance(finish, Finish)
    assert finish.verdict.state is JobState.FAILED
    assert finish.verdict.reason == "disk-full"


EVENTS: list[Event] = [
    Begin(),
    Noted("x"),
    Prepared(),
    NotPrepared("r", "c"),
    Launched(),
    NotLaunched("r", "c"),
    WELL,
    BADLY,
    KILLED,
    GONE,
    STOP,
    ABORT,
    RECLAIM,
    Saved(),
    NotSaved("r", "c"),
]
PHASES = [(), TO_PREPARING, TO_LAUNCHING, TO_RUNNING, TO_STOPPING, TO_ABORTING, TO_SAVING, TO_DONE]


def check(state: JobState, effects: list[Effect]) -> None:
    """Every state is legal after the one before, and at most one end, last."""
    ends = [effect for effect in effects if isinstance(effect, Finish)]
    assert len(ends) <= 1
    assert not ends or effects[-1] is ends[0]
    for effect in effects:
        if isinstance(effect, Enter | Finish):
            then = effect.state if isinstance(effect, Enter) else effect.verdict.state
            assert then in LEGAL[state], f"{state} then {then}"
            state = then


@pytest.mark.parametrize("before", PHASES)
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_in_every_phase_leads_to_a_legal_state(
    before: tuple[Event, ...], event: Event
) -> None:
    attempt, effects = play(*before, event)
    check(JobState.SUBMITTED, effects)
    assert isinstance(attempt.phase, Over) == attempt.state.ended


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_any_order_of_events_keeps_the_rules_and_ends_once(events: list[Event]) -> None:
    attempt, effects = play(*events)
    check(JobState.SUBMITTED, effects)
    assert attempt.state.ended == any(isinstance(effect, Finish) for effect in effects)


def written(effects: list[Effect]) -> list[StateChange]:
    return [
        StateChange(KEY, effect.state, AT, effect.cause, effect.reason, effect.exit_code)
        for effect in effects
        if isinstance(effect, Enter)
    ]


@given(
    st.lists(st.sampled_from(EVENTS), max_size=12), st.lists(st.sampled_from(EVENTS), max_size=8)
)
def test_a_restart_at_any_moment_keeps_the_rules(before: list[Event], after: list[Event]) -> None:
    attempt, effects = play(*before)
    if attempt.state.ended:
        return
    orders = [event for event in before if isinstance(event, StopAsked)]
    order = next((each for each in orders if each.abort), orders[0] if orders else None)
    launched = any(isinstance(effect, Attend) for effect in effects)
    again, more = resume(written(effects), order, launched)
    check(attempt.state, list(more))
    more = list(more)
    for event in after:
        again, further = step(again, event)
        more += further
    check(attempt.state, more)


@pytest.mark.parametrize(
    ("before", "order", "launched", "story"),
    [
        (TO_PREPARING, None, False, "preparing prepare"),
        (TO_PREPARING, STOP, False, "drop FIN stopped"),
        (TO_LAUNCHING, None, True, "running attend"),
        (TO_LAUNCHING, STOP, True, "running attend stopping(stopped) terminate"),
        (TO_RUNNING, None, True, "attend"),
        (TO_RUNNING, STOP, True, "attend stopping(stopped) terminate"),
        (TO_STOPPING, STOP, True, "attend terminate"),
        (TO_STOPPING, ABORT, True, "attend aborting(aborted) kill"),
        (TO_SAVING, None, True, "attend"),
        (TO_SAVING, STOP, True, "attend"),
        (TO_SAVING, ABORT, True, "forget FIN aborted"),
    ],
)
def test_a_restarted_agent_takes_up_where_it_was(
    before: tuple[Event, ...], order: StopAsked | None, launched: bool, story: str
) -> None:
    _, effects = play(*before)
    assert told(list(resume(written(effects), order, launched)[1])) == story


def test_a_stop_that_came_while_saving_is_still_ignored_after_a_restart() -> None:
    _, effects = play(*TO_SAVING)
    again, _ = resume(written(effects), STOP, launched=True)
    again, _ = step(again, WELL)
    again, last = step(again, Saved())
    assert told(list(last)) == "FIN done"


def test_a_stop_that_comes_after_a_restart_in_saving_is_ignored_too() -> None:
    _, effects = play(*TO_SAVING)
    again, _ = resume(written(effects), None, launched=True)
    again, nothing = step(again, STOP)
    assert nothing == ()
    again, _ = step(again, WELL)
    _, last = step(again, Saved())
    assert told(list(last)) == "FIN done"


def test_an_abort_after_a_restart_in_saving_keeps_nothing() -> None:
    _, effects = play(*TO_SAVING)
    again, _ = resume(written(effects), None, launched=True)
    _, last = step(again, ABORT)
    assert told(list(last)) == "drop forget FIN aborted"
