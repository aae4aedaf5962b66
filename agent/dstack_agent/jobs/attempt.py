"""What an attempt does next: events in, effects out. No I/O, no clock.

    submitted → preparing → running → saving → done | failed
                    │           │        │
                    │           └→ stopping → saving → stopped
                    ├→ failed   └→ aborting → aborted        └→ lost
                    └→ stopped | aborted

Rules (people relied on them for years): a stop while preparing stops at once; a stop while running
keeps the artifacts; a stop while saving is ignored; an abort ends everything at once and keeps
nothing; there is exactly one end. A failed job's artifacts are kept, never as complete ones.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from dstack_agent.executor.port import Ended
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
    Saved,
    StopAsked,
)
from dstack_agent.jobs.phase import (
    Ending,
    Fresh,
    Launching,
    Order,
    Over,
    Phase,
    Preparing,
    Running,
    Saving,
    Verdict,
)
from dstack_mesh.frozen import frozen
from dstack_scheduler.job import JobState

FRESH = Fresh()


@frozen
class Attempt:
    """Where an attempt stands: the state people see and the phase it is in."""

    state: JobState = JobState.SUBMITTED
    phase: Phase = FRESH


Step = tuple[Attempt, tuple[Effect, ...]]


def step(attempt: Attempt, event: Event) -> Step:
    """The attempt after the event, and what must be done now. Late events change nothing."""
    match event:
        case StopAsked():
            return _ordered(attempt, order_of(event))
        case Begin() | Noted() | Prepared() | NotPrepared():
            return _prepared(attempt, event)
        case Launched() | NotLaunched():
            return _launched(attempt, event)
        case CommandsEnded(ended):
            return _ended(attempt, ended)
        case Saved() | NotSaved():
            return _saved(attempt, event)
    assert_never(event)


def order_of(event: StopAsked) -> Order:
    return Order(event.abort, "aborted" if event.abort else "stopped", event.cause)


def _ordered(attempt: Attempt, order: Order) -> Step:
    match attempt.phase:
        case Fresh() | Preparing():
            return finish(attempt, ordered_verdict(order, None), Drop())
        case Launching(earlier):
            if not _outranks(order, earlier):
                return attempt, ()
            ending = (EndCommands(order.abort),)
            return _enter(attempt, Launching(order), _ending_state(order), order, ending)
        case Running():
            return _end_running(attempt, order)
        case Ending(earlier):
            return _end_running(attempt, order) if _outranks(order, earlier) else (attempt, ())
        case Saving(verdict):
            if not order.abort:
                return attempt, ()
            aborted = ordered_verdict(order, verdict.exit_code)
            return finish(attempt, aborted, Drop(), Forget())
        case Over():
            return attempt, ()
    assert_never(attempt.phase)


def _outranks(order: Order, earlier: Order | None) -> bool:
    return earlier is None or (order.abort and not earlier.abort)


def _ending_state(order: Order) -> JobState:
    return JobState.ABORTING if order.abort else JobState.STOPPING


def _end_running(attempt: Attempt, order: Order) -> Step:
    return _enter(
        attempt, Ending(order), _ending_state(order), order, then=(EndCommands(order.abort),)
    )


def _enter(
    attempt: Attempt,
    phase: Phase,
    state: JobState,
    order: Order | Verdict | None = None,
    then: Iterable[Effect] = (),
) -> Step:
    exit_code = order.exit_code if isinstance(order, Verdict) else None
    cause, reason = (order.cause, order.reason) if order else ("", "")
    return Attempt(state, phase), (Enter(state, cause, reason, exit_code), *then)


def _prepared(attempt: Attempt, event: Begin | Noted | Prepared | NotPrepared) -> Step:
    match attempt.phase, event:
        case Fresh(), Begin():
            return _enter(attempt, Preparing(), JobState.PREPARING, then=(Prepare(),))
        case Preparing() | Launching(None), Noted(cause):
            return attempt, (Enter(JobState.PREPARING, cause),)
        case Preparing(), Prepared():
            return replace(attempt, phase=Launching()), (Launch(),)
        case Preparing(), NotPrepared(reason, cause):
            return finish(attempt, Verdict(JobState.FAILED, reason, cause))
        case _:
            return attempt, ()


def _launched(attempt: Attempt, event: Launched | NotLaunched) -> Step:
    match attempt.phase, event:
        case Launching(None), Launched():
            return _enter(attempt, Running(), JobState.RUNNING, then=(Attend(),))
        case Launching(Order() as order), Launched():
            ending = replace(attempt, phase=Ending(order))
            return ending, (Attend(), EndCommands(order.abort))
        case Launching(None), NotLaunched(reason, cause):
            return finish(attempt, Verdict(JobState.FAILED, reason, cause))
        case Launching(Order() as order), NotLaunched():
            return finish(attempt, ordered_verdict(order, None))
        case _:
            return attempt, ()


def ordered_verdict(order: Order, exit_code: int | None) -> Verdict:
    state = JobState.ABORTED if order.abort else JobState.STOPPED
    return Verdict(state, order.reason, order.cause, exit_code)


def _ended(attempt: Attempt, ended: Ended) -> Step:
    match attempt.phase:
        case Ending(Order(abort=True) as order):
            aborted = ordered_verdict(order, ended.exit_code)
            return finish(attempt, aborted, Drop(), Forget())
        case Ending(order):
            return _save(attempt, _stopped_verdict(order, ended))
        case Running():
            return _save(attempt, _own_verdict(ended))
        case _:
            return attempt, ()


def _stopped_verdict(order: Order, ended: Ended) -> Verdict:
    if ended.reason == "shim-lost":
        return _own_verdict(ended)
    return ordered_verdict(order, ended.exit_code)


def _own_verdict(ended: Ended) -> Verdict:
    if ended.reason == "shim-lost":
        return Verdict(JobState.LOST, ended.reason, ended.cause, ended.exit_code)
    if ended.exit_code == 0 and not ended.reason:
        return Verdict(JobState.DONE, "", ended.cause, 0)
    return Verdict(JobState.FAILED, ended.reason, ended.cause, ended.exit_code)


def _save(attempt: Attempt, verdict: Verdict) -> Step:
    complete = verdict.state in (JobState.DONE, JobState.STOPPED)
    effects = (Drop(), Save(complete))
    if attempt.state is JobState.SAVING:  # taken up again after a restart of the agent
        return replace(attempt, phase=Saving(verdict)), effects
    shown = Verdict(JobState.SAVING, exit_code=verdict.exit_code)
    return _enter(attempt, Saving(verdict), JobState.SAVING, shown, effects)


def _saved(attempt: Attempt, event: Saved | NotSaved) -> Step:
    match attempt.phase, event:
        case Saving(verdict), Saved(warning):
            cause = " ".join(part for part in (verdict.cause, warning) if part)
            return finish(attempt, replace(verdict, cause=cause))
        case Saving(verdict), NotSaved(reason, cause):
            if verdict.state is JobState.DONE:
                return finish(attempt, Verdict(JobState.FAILED, reason, cause, verdict.exit_code))
            return finish(attempt, replace(verdict, cause=f"{verdict.cause} {cause}".strip()))
        case _:
            return attempt, ()


def finish(attempt: Attempt, verdict: Verdict, *first: Effect) -> Step:
    return Attempt(verdict.state, Over()), (*first, Finish(verdict))
