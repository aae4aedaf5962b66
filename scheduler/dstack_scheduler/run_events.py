"""What happens to a run, and what is to be done: the words between `run` and its driver."""

from datetime import UTC, datetime

from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_scheduler.job import JobKey, StateChange
from dstack_scheduler.retry import ONCE, Retry


@frozen
class Part:
    """A job of the run.

    Attributes:
        key: Of the attempt that is made next, or that runs already.
        after: Indexes of jobs that must be done before.
        awarded: Whether an agent has it already.
        retry: When it is tried again.
        since: When the run was submitted.
        gang: Indexes of the jobs that start together with it, by rank; empty for a job of its own.
    """

    key: JobKey
    name: str
    after: tuple[int, ...] = ()
    awarded: bool = False
    retry: Retry = ONCE
    since: datetime = datetime.min.replace(tzinfo=UTC)
    gang: tuple[int, ...] = ()

    @property
    def master(self) -> int:
        """The job that stands for it."""
        return self.gang[0] if self.gang else self.key.job


@frozen
class Placed:
    """An agent has the job now."""

    key: JobKey


@frozen
class Unplaced:
    """The job will not be placed: no agent takes it, or the search was given up."""

    job: int
    error: MeshError | None
    at: datetime


@frozen
class Vanished:
    """The agent that was to have the attempt knows for sure that it never began."""

    key: JobKey


@frozen
class Changed:
    """The agent tells a state of the job; an ended one is the last."""

    change: StateChange


@frozen
class Grown:
    """A job made jobs: all parts as they are now, the new ones last."""

    parts: tuple[Part, ...]


@frozen
class StopAsked:
    """Somebody wants the whole run to stop."""

    abort: bool
    cause: str
    at: datetime


Event = Placed | Unplaced | Vanished | Changed | Grown | StopAsked


@frozen
class Place:
    """Find an agent for the attempt and award it; answered by `Placed` or `Unplaced`.

    Attributes:
        rest_seconds: Before the search begins.
        because: How the attempt before ended, if this one is made because of that.
    """

    key: JobKey
    rest_seconds: float = 0.0
    because: StateChange | None = None


@frozen
class PlaceGang:
    """The same for all nodes of a gang at once, each answered by `Placed` or `Unplaced`."""

    keys: tuple[JobKey, ...]


@frozen
class Follow:
    """Follow the attempt at the agent that has it; answered by `Changed`."""

    key: JobKey


@frozen
class StopPlacing:
    """Give up the search, unless the award is under way."""

    job: int


@frozen
class StopJob:
    """Ask the agent that has the job to stop it, until it ended.

    Attributes:
        patience_seconds: How long it may go on before it is asked.
    """

    key: JobKey
    abort: bool
    cause: str
    patience_seconds: float = 0.0


@frozen
class End:
    """The run ended like the job that decided it."""

    state: StateChange


Effect = Place | PlaceGang | Follow | StopPlacing | StopJob | End
