"""What is going on with an attempt, finer than the states that people see."""

from dstack_mesh.frozen import frozen
from dstack_scheduler.job import JobState

LEGAL: dict[JobState, frozenset[JobState]] = {
    JobState.SUBMITTED: frozenset({JobState.PREPARING, JobState.STOPPED, JobState.ABORTED}),
    JobState.PREPARING: frozenset(
        {
            JobState.PREPARING,
            JobState.RUNNING,
            JobState.STOPPING,
            JobState.ABORTING,
            JobState.FAILED,
            JobState.STOPPED,
            JobState.ABORTED,
            JobState.LOST,
        }
    ),
    JobState.RUNNING: frozenset(
        {JobState.RUNNING, JobState.STOPPING, JobState.ABORTING, JobState.SAVING}
    ),
    JobState.STOPPING: frozenset(
        {JobState.ABORTING, JobState.SAVING, JobState.STOPPED, JobState.LOST}
    ),
    JobState.ABORTING: frozenset({JobState.ABORTED}),
    JobState.SAVING: frozenset(
        {JobState.DONE, JobState.FAILED, JobState.STOPPED, JobState.ABORTED, JobState.LOST}
    ),
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.STOPPED: frozenset(),
    JobState.ABORTED: frozenset(),
    JobState.LOST: frozenset(),
}
"""States that may follow a state on one agent. WAITING belongs to the driver alone."""


@frozen
class Verdict:
    """How the attempt will have ended once its artifacts are saved."""

    state: JobState
    reason: str = ""
    cause: str = ""
    exit_code: int | None = None


@frozen
class Order:
    """An order to end; `reason` is `stopped`, `aborted` or `reclaimed`."""

    abort: bool
    reason: str
    cause: str
    grace_seconds: float | None = None


@frozen
class Fresh:
    """Accepted; nothing done."""


@frozen
class Preparing:
    """Code and inputs are on their way."""


@frozen
class Launching:
    """A shim is being started: an order may stop it half-way, or is given again once it runs."""

    order: Order | None = None


@frozen
class Running:
    """The commands run."""


@frozen
class Ending:
    """The commands were told to end."""

    order: Order


@frozen
class Saving:
    """The commands ended; artifacts are being saved."""

    verdict: Verdict


@frozen
class Over:
    """Nothing follows."""


Phase = Fresh | Preparing | Launching | Running | Ending | Saving | Over
