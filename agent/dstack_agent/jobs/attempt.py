"""What an attempt does next: events in, effects out. No I/O, no clock.

    submitted → preparing → running → saving → done | failed
                    │           │        │
                    │           └→ stopping → saving → stopped
                    ├→ failed   └→ aborting → aborted        └→ lost
                    └→ stopped | aborted

Rules (people relied on them for years): a stop while preparing stops at once; a stop while running
keeps the artifacts; a stop while saving is ignored; an abort ends everything at once and keeps
nothing; there is exactly one end. A failed job's artifacts are kept, never as complete ones. Of two
stops the first one says why, and the shorter grace holds.
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
    Reloaded,
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
from dstack_scheduler.job import RELOADED, JobState

FRESH = Fresh()

FOLLOWS = "its code follows the edits of its submitter"


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
        case Reloaded():
            return _reloaded(attempt)
        case CommandsEnded(ended):
            return _ended(attempt, ended)
        case Saved() | NotSaved():
            return _saved(attempt, event)
    assert_never(event)


def together(earlier: StopAsked | None, later: StopAsked) -> StopAsked:
    """What two orders come to: an abort, or the first stop with the shorter grace."""
    if earlier is None or _outranks(later, earlier):
        return later
    hurried = replace(earlier, grace_seconds=later.grace_seconds)
    return hurried if _hurries(later, earlier) else earlier


def order_of(event: StopAsked) -> Order:
    reason = event.reason or ("aborted" if event.abort else "stopped")
    return Order(event.abort, reason, event.cause, event.grace_seconds)


def _ordered(attempt: Attempt, order: Order) -> Step:
    # By the state: an attempt that is taken up again in saving is first attended to its end anew.
    if attempt.state is JobState.SAVING:
        return _ordered_in_saving(attempt, order)
    match attempt.phase:
        case Fresh() | Preparing():
            return finish(attempt, ordered_verdict(order, None), Drop())
        case Launching(earlier):
            return _end_launching(attempt, order, earlier)
        case Running():
            return _end_running(attempt, order)
        case Ending(earlier):
            return _end_sooner(attempt, order, earlier)
        case Saving() | Over():
            return attempt, ()
    assert_never(attempt.phase)


def _ordered_in_saving(attempt: Attempt, order: Order) -> Step:
    if not order.abort:
        return attempt, ()
    code = attempt.phase.verdict.exit_code if isinstance(attempt.phase, Saving) else None
    return finish(attempt, ordered_verdict(order, code), Drop(), Forget())


def _end_launching(attempt: Attempt, order: Order, earlier: Order | None) -> Step:
    if earlier is not None and _hurries(order, earlier):
        return replace(attempt, phase=Launching(_hurried(earlier, order))), ()
    if not _outranks(order, earlier):
        return attempt, ()
    return _enter(attempt, Launching(order), _ending_state(order), order, (_end(order),))


def _end_sooner(attempt: Attempt, order: Order, earlier: Order) -> Step:
    if _hurries(order, earlier):
        hurried = _hurried(earlier, order)
        return replace(attempt, phase=Ending(hurried)), (_end(hurried),)
    return _end_running(attempt, order) if _outranks(order, earlier) else (attempt, ())


def _outranks(order: Order | StopAsked, earlier: Order | StopAsked | None) -> bool:
    return earlier is None or (order.abort and not earlier.abort)


def _hurries(order: Order | StopAsked, earlier: Order | StopAsked) -> bool:
    """Whether a stop leaves a job that is told to stop less time than it has."""
    if order.abort or earlier.abort or order.grace_seconds is None:
        return False
    return earlier.grace_seconds is None or order.grace_seconds < earlier.grace_seconds


def _hurried(earlier: Order, order: Order) -> Order:
    return replace(earlier, grace_seconds=order.grace_seconds)


def _end(order: Order) -> EndCommands:
    return EndCommands(order.abort, order.grace_seconds)


def _ending_state(order: Order) -> JobState:
    return JobState.ABORTING if order.abort else JobState.STOPPING


def _end_running(attempt: Attempt, order: Order) -> Step:
    return _enter(attempt, Ending(order), _ending_state(order), order, then=(_end(order),))


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
            return ending, (Attend(), _end(order))
        case Launching(None), NotLaunched(reason, cause):
            return finish(attempt, Verdict(JobState.FAILED, reason, cause))
        case Launching(Order() as order), NotLaunched():
            return finish(attempt, ordered_verdict(order, None))
        case _:
            return attempt, ()


def _reloaded(attempt: Attempt) -> Step:
    if not isinstance(attempt.phase, Running):
        return attempt, ()
    return attempt, (Enter(JobState.RUNNING, FOLLOWS, RELOADED),)


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
