"""What a driver tells whoever watches it: events for people and scripts, as they happened."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from dstack_mesh.card import PeerCard
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunName
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import ArtifactSaved, Fin, Gap, Input, LogFrame, StateChange
from dstack_scheduler.verdict import Bid, Reason


@frozen
class Asked:
    """Agents answered an ask. `silent` did not within the deadline."""

    job: int
    bids: tuple[tuple[PeerCard, Bid], ...]
    silent: tuple[PeerCard, ...] = ()


@frozen
class Waiting:
    """Nobody can take the job now: why, per agent's name. Said again only when it changes."""

    job: int
    reasons: tuple[tuple[str, tuple[Reason, ...]], ...]


@frozen
class Sending:
    """Bytes on their way to the winner."""

    job: int
    agent: PeerCard
    what: str
    sent_bytes: int
    total_bytes: int


@frozen
class Awarding:
    """The award is about to be sent: from now on the agent may have the job."""

    job: int
    attempt: int
    agent: PeerCard


@frozen
class Declined:
    """The agent does not have the job that was being awarded, for sure."""

    job: int
    attempt: int


@frozen
class Awarded:
    """The job is the agent's. `why` is one clause for people: "only agent with a free GPU"."""

    job: int
    attempt: int
    agent: PeerCard
    local: bool
    gpu_uuids: tuple[str, ...]
    why: str


@frozen
class Unheard:
    """The agent that has the job does not answer; the reader keeps trying."""

    job: int
    agent: PeerCard


@frozen
class TriedAgain:
    """Another attempt is made at a job.

    Attributes:
        attempt: The one to be made.
        because: How the one before ended.
        resumes: What that one kept and is put back.
    """

    job: int
    attempt: int
    because: StateChange
    resumes: tuple[Input, ...] = ()


@frozen
class Kept:
    """A second copy of a job's artifacts is on this machine now."""

    job: int
    agent: PeerCard
    size_bytes: int


@frozen
class Grown:
    """A job made jobs: all jobs of the run as they are now, the new ones last."""

    maker: int
    jobs: tuple[DrivenJob, ...]


@frozen
class RunEnded:
    """All jobs ended. The run's exit code is that of the job that decided it."""

    run_name: RunName
    state: StateChange


Progress = (
    Asked
    | Waiting
    | Sending
    | Awarding
    | Declined
    | Awarded
    | Unheard
    | TriedAgain
    | Kept
    | Grown
    | StateChange
    | LogFrame
    | Gap
    | ArtifactSaved
    | Fin
    | RunEnded
)

Tell = Callable[[Progress], Awaitable[None]]
"""Takes an event; awaited before the next one."""


class Watcher(Protocol):
    """Somebody who watches a run."""

    async def saw(self, event: Progress) -> None:
        """Takes an event. A slow watcher slows the reading of logs, never the job."""
        ...
