"""Taking an attempt up again after the agent died, whenever that was."""

from collections.abc import Sequence

from dstack_agent.jobs.attempt import Attempt, Step, finish, order_of, ordered_verdict, step
from dstack_agent.jobs.effect import Attend, Effect, EndCommands, Enter, Forget
from dstack_agent.jobs.event import Begin, StopAsked
from dstack_agent.jobs.phase import Ending, Fresh, Order, Running
from dstack_scheduler.job import JobState, StateChange


def resume(history: Sequence[StateChange], order: StopAsked | None, launched: bool) -> Step:
    """The attempt as a restarted agent finds it, and what must be done now.

    Args:
        history: Its states, oldest first; none is an end.
        order: What a person asked for, if anything.
        launched: Whether a shim has, or had, the job.
    """
    state = history[-1].state if history else JobState.SUBMITTED
    if not launched:
        fresh = Attempt(state, Fresh())
        return step(fresh, order) if order else step(fresh, Begin())
    if state is JobState.SAVING and order and order.abort:
        return finish(Attempt(state), ordered_verdict(order_of(order), None), Forget())
    given = _given_order(history)
    if given:
        ending = Attempt(state, Ending(given))
        again, effects = step(ending, order) if order else (ending, ())
        return again, (Attend(), *(effects or (EndCommands(given.abort),)))
    if state is JobState.SAVING:
        return Attempt(state, Running()), (Attend(),)
    return _resume_running(state, order)


def _given_order(history: Sequence[StateChange]) -> Order | None:
    """The order that was already carried out in part."""
    for change in reversed(history):
        if change.state in (JobState.STOPPING, JobState.ABORTING):
            return Order(change.state is JobState.ABORTING, change.reason, change.cause)
    return None


def _resume_running(state: JobState, order: StopAsked | None) -> Step:
    entered: tuple[Effect, ...] = () if state is JobState.RUNNING else (Enter(JobState.RUNNING),)
    running = Attempt(JobState.RUNNING, Running())
    again, effects = step(running, order) if order else (running, ())
    return again, (*entered, Attend(), *effects)
