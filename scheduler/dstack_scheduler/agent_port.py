"""What a driver, a command or another agent can ask of an agent.

The one border between deciding and the network: `dstack_scheduler.wire` implements it over gRPC,
and tests implement it in memory. Every method raises a `MeshError`; `Unreachable` means that the
agent did not answer, never that it is dead.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, HoldId, PeerId, RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_mesh.signing import Signed
from dstack_scheduler.job import (
    ArtifactSaved,
    EndOfLog,
    Fin,
    Gap,
    Input,
    JobKey,
    JobSpec,
    LogFrame,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)
from dstack_scheduler.job_paths import outside
from dstack_scheduler.needs import Needs
from dstack_scheduler.removal import Removal
from dstack_scheduler.verdict import Bid

OTHER_THAN = "not:"
"""Before an agent's id: any agent but that one."""


@frozen
class Question:
    """What is asked of every feasible agent.

    Attributes:
        input_digests: Manifests that the job reads.
        input_sizes_bytes: Bytes of the files of each, in the same order, as far as they are known.
        image: As the workflow says it; empty for a process, and of askers that do not say it.
        max_duration_seconds: None for no limit of the job's own.
        outside_paths: Folders to keep, to get or to start in that are not below the job's own.
        ports: Ports that the job listens on.
        ssh: The job is entered over SSH.
        meets: Wants to know with the hold where other nodes of its gang would reach the job.
    """

    key: JobKey
    run_name: RunName
    needs: Needs
    executor: ExecutorKind
    python: str = ""
    input_digests: tuple[Digest, ...] = ()
    input_sizes_bytes: tuple[int, ...] = ()
    image: str = ""
    max_duration_seconds: float | None = None
    outside_paths: tuple[str, ...] = ()
    ports: int = 0
    ssh: bool = False
    meets: bool = False


def question_of(spec: JobSpec) -> Question:
    """What is asked for a job."""
    return Question(
        key=spec.key,
        run_name=spec.run_name,
        needs=spec.needs,
        executor=spec.executor,
        python=spec.python,
        input_digests=tuple(each.digest for each in spec.inputs),
        input_sizes_bytes=tuple(each.size_bytes for each in spec.inputs),
        image=spec.image,
        max_duration_seconds=spec.max_duration_seconds,
        outside_paths=outside(
            (*spec.artifacts, *(each.path for each in spec.inputs)), spec.working_dir
        ),
        ports=len(spec.ports),
        ssh=any(app.ssh for app in spec.apps),
        meets=spec.node is not None and spec.node.rank == 0,
    )


@frozen
class Hold:
    """Resources held for a short time; renewed by reserving again.

    Attributes:
        meeting_point: HOST:PORT of a port that was free just now; empty if it was not asked for.
    """

    hold_id: HoldId
    expires_in_seconds: float
    gpu_uuids: tuple[str, ...] = ()
    meeting_point: str = ""


@frozen
class Telling:
    """What an agent published of its runs, as another one passes it on.

    Attributes:
        heard_at: When it last gave a sign of life, by the clock of who passes it on.
        answers: Whether it answers now, as far as that one knows.
        said_at: When it said this; of two tellings of one agent the later one counts.
        revoked: Whether the mesh shut it out since: only what had ended by then is told.
    """

    agent_id: PeerId
    agent_name: str
    heard_at: datetime
    answers: bool
    said_at: datetime
    runs: tuple[RunRecord, ...] = ()
    tags: tuple[TagRecord, ...] = ()
    revoked: bool = False
    removed: tuple[Removal, ...] = ()


@frozen
class Listing:
    """Runs and tags as far as one agent knows them first-hand, and what others said.

    Attributes:
        for_all: Whether the agent tells of others at all.
        removed: Runs that it says are removed; one that a tag names is told all the same.
        cut: Whether older runs were not read in time.
    """

    runs: tuple[RunRecord, ...]
    tags: tuple[TagRecord, ...]
    others: tuple[Telling, ...] = ()
    for_all: bool = False
    removed: tuple[Removal, ...] = ()
    cut: bool = False


@frozen
class Advert:
    """What an agent last said of itself, as another one knows it; like a `Telling`."""

    said: HelloAnswer
    heard_at: datetime
    answers: bool


@frozen
class DrivenJob:
    """A job of a run that is handed over.

    Attributes:
        spec: Its key carries the next attempt to make; inputs from jobs of this run are not in it.
        after: Indexes of jobs of this run that must be done before, whose artifacts it takes.
        placement: "", "local", "remote", an agent's id or name, or `OTHER_THAN` and an id.
        awarded: Where it runs or ran already; None if it was not awarded.
        signed: Its submitter's signature, for the agents that get it; None if it has none.
        resumes: What an attempt kept that was interrupted; put back after everything else.
    """

    spec: JobSpec
    after: tuple[int, ...] = ()
    placement: str = ""
    awarded: Source | None = None
    signed: Signed | None = None
    resumes: tuple[Input, ...] = ()


AttachEvent = LogFrame | Gap | StateChange | ArtifactSaved | Fin | EndOfLog


class Attachment(Protocol):
    """An open Attach stream. Events end without Fin when the connection broke (`Unreachable`)."""

    async def follow(
        self, key: JobKey, stdout_offset: int = 0, stderr_offset: int = 0, until_now: bool = False
    ) -> None:
        """Starts following a job; attempt 0 is the newest one the agent knows."""
        ...

    async def ack(self, key: JobKey, stdout_offset: int, stderr_offset: int) -> None:
        """Says which bytes the reader has safely."""
        ...

    async def stop(self, key: JobKey, abort: bool, cause: str) -> None:
        """Asks for a stop on this stream."""
        ...

    async def want(self, digests: Sequence[Digest]) -> None:
        """Asks for chunks of artifacts; they are put into the caller's store as they arrive."""
        ...

    def events(self) -> AsyncGenerator[AttachEvent, None]:
        """What the agent sends, in order."""
        ...


class Agent(Protocol):
    """An agent that can be talked to."""

    @property
    def card(self) -> PeerCard: ...

    @property
    def local(self) -> bool:
        """Whether it is the agent of this home, reached by its Unix socket."""
        ...

    async def ask(self, question: Question) -> Bid: ...

    async def reserve(self, question: Question, epoch: int) -> Hold:
        """Raises Busy (not free any more) or Conflict (a higher epoch was seen)."""
        ...

    async def commit(
        self, hold_id: HoldId, epoch: int, spec: JobSpec, secrets: Mapping[str, str]
    ) -> None: ...

    async def release(self, hold_id: HoldId) -> None: ...

    def attach(self) -> AbstractAsyncContextManager[Attachment]: ...

    async def list_runs(
        self, runs: Sequence[str] = (), reuse_keys: Sequence[Digest] = ()
    ) -> Listing:
        """What it knows: all, runs that are named, or runs with jobs of these reuse keys."""
        ...

    async def stop(self, run_id: RunId, job: int | None, abort: bool, cause: str) -> int: ...

    async def drive(self, record: RunRecord, jobs: Sequence[DrivenJob], epoch: int) -> None: ...

    async def tag(self, tag: TagRecord) -> None: ...

    async def remove(self, run_id: RunId) -> None:
        """Takes a run that ended out of all lists.

        Raises Refused while it goes on, Missing if nobody told the agent of it.
        """
        ...

    async def forget_caches(self, repo: str, workflow: str) -> int:
        """Lets go of the caller's caches of a workflow there; returns how many there were."""
        ...

    async def reload(self, key: JobKey, code: Digest) -> Replaced:
        """Lays newer code, whose bytes are there, into a job that runs and that the caller gave."""
        ...

    async def vouch(self, run_id: RunId, job: int, signed: Signed) -> None:
        """Brings the submitter's signature of a job that the caller gave to the agent."""
        ...

    async def send_tree(self, digest: Digest) -> int:
        """Brings the manifest and its chunks from the caller's store; returns bytes sent."""
        ...

    async def fetch_tree(self, digest: Digest) -> int:
        """Brings the manifest and its chunks into the caller's store; returns bytes received."""
        ...


class Directory(Protocol):
    """Which agents there are right now."""

    def agents(self) -> AsyncGenerator[Agent, None]:
        """Agents as they are found, each once; ends when nobody else is expected at present."""
        ...

    async def find(self, peer_id: PeerId) -> Agent | None:
        """The agent at the address it has now; None while it is not known."""
        ...
