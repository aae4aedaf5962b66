"""What a command's exit code says.

`run`, `attach`, `wait` and `logs -f` return the job's own code unchanged; where the job has none,
or where the trouble is ours, the codes are those that `docker run` and `timeout` made familiar.
"""

from typing import Literal

from dstack_mesh.faults import EXIT_CODES, MeshError
from dstack_scheduler.job import RECLAIMED, JobState, StateChange

USAGE = 2
TIME_LIMIT = 124
OURS = 125
INTERRUPTED = 130
DETACHED = 130
PIPE_CLOSED = 141
TERMINATED = 128 + 15
KILLED = 128 + 9

TIME_LIMIT_REASONS = frozenset({"time-limit", "max-duration", "idle-timeout"})

OUR_REASONS = frozenset({"disk-full", RECLAIMED})
"""Why we ended a job that would have gone on: its exit code is not its own word."""

Source = Literal["job", "dstack"]


def of_end(state: StateChange) -> int:
    """The exit code for a run that ended like this."""
    if state.reason in TIME_LIMIT_REASONS:
        return TIME_LIMIT
    if state.reason in OUR_REASONS:
        return OURS
    if state.exit_code is not None:
        return state.exit_code
    match state.state:
        case JobState.DONE:
            return 0
        case JobState.STOPPED:
            return TERMINATED
        case JobState.ABORTED:
            return KILLED
        case _:
            return OURS


def source_of(state: StateChange) -> Source:
    """Whether the exit code is the job's own word or ours."""
    if state.reason in TIME_LIMIT_REASONS | OUR_REASONS or state.exit_code is None:
        return "dstack"
    return "job"


def of_error(error: MeshError, follows: bool) -> int:
    """The exit code for trouble; `follows` for verbs whose exit code is otherwise a job's."""
    return OURS if follows else EXIT_CODES[error.fault]
