"""A job as everybody must know it: its key, its specification, its states, what it kept."""

from collections.abc import Mapping
from dataclasses import field, replace
from datetime import datetime
from enum import Enum

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address, Digest, PeerId, RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.app import App
from dstack_scheduler.needs import Needs
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.retry import Retry
from dstack_scheduler.secret import RegistryAuth, needed

NOTHING = Digest(b"")
"""No digest."""

MOST_PORTS = 100
"""That one job may ask for."""

MOST_NODES = 256
"""That one gang may have."""


@frozen(slots=True)
class JobKey:
    """Names an attempt at a job: the run, the job's index in it, the attempt counted from 1."""

    run_id: RunId
    job: int
    attempt: int = 1

    def __str__(self) -> str:
        return f"{self.run_id}.{self.job}.{self.attempt}"

    def __lt__(self, other: "JobKey") -> bool:
        return (self.run_id, self.job, self.attempt) < (other.run_id, other.job, other.attempt)


@frozen
class Source:
    """An agent that has some bytes; without addresses it cannot be dialled."""

    peer_id: PeerId
    addresses: tuple[Address, ...] = ()


@frozen
class Input:
    """Something to lay into the work directory before the job starts.

    Attributes:
        digest: Manifest of the files.
        path: Where it goes: the path that the producer saved it under, relative to the consumer's
            working directory or absolute.
        sources: Agents that have the bytes.
        origin: For people: "calm-ibex-1 (prepare)" or ":v1".
        size_bytes: Bytes of the files.
    """

    digest: Digest
    path: str
    sources: tuple[Source, ...] = ()
    origin: str = ""
    size_bytes: int = 0


@frozen
class Revision:
    """Where code comes from. Empty fields are unknown; `repo` never carries credentials."""

    repo: str = ""
    branch: str = ""
    commit: str = ""
    dirty: bool = False


@frozen
class Node:
    """The place of a job in a gang: jobs that start together or not at all, side by side in a run.

    Attributes:
        rank: From 0, which is the master.
        count: How many there are.
        master: HOST:PORT under which the master is reached; empty until all have a place.
    """

    rank: int
    count: int
    master: str = ""

    def indexes(self, job: int) -> tuple[int, ...]:
        """The jobs of the gang, by rank, where this node is a job of the run."""
        first = job - self.rank
        return tuple(range(first, first + self.count))


@frozen
class JobSpec:
    """Everything an agent must know to run a job. Secret values travel beside it, never in it.

    Attributes:
        commands: Lines for one shell, in order; the first failure ends the job. Empty: the image's
            own command.
        image: Container image; empty for a process on the host.
        env: What the workflow asks for, values as written; secrets in them are placeholders.
        working_dir: Relative to the root of the code, which "" is; or absolute.
        artifacts: Folders to keep: relative to the working directory, absolute, or below "~/".
        inputs: Laid into the work directory in order.
        code_digest: Manifest of the code.
        python: "3.11"; empty for any.
        stop_grace_seconds: Between the polite and the impolite signal.
        max_duration_seconds: None for no limit.
        idle_timeout_seconds: So long nobody need be connected to its ports; None for ever.
        owner: For display: "name@machine".
        secret_names: Secrets that the job gets as variables and files.
        target: What the run was asked for: the workflow or provider of its last job.
        job_count: Jobs of the run in all.
        ports: Ports that the job listens on, told to it as PORT_0, PORT_1 …; 0 is any free one.
        registry_auth: What the image is pulled with; None for nothing. The job never sees it.
        installs: Arguments of each `pip install` before the commands run, quoted for a shell. Of a
            process; files are relative to the working directory, and one in YAML is conda's.
        retry: When it is tried again; None for what is usual.
        cache: Folders that stay for the next run of the workflow, paths as of artifacts.
        counted: Patterns of the files of the code that count for reuse; empty for all of them.
        apps: What a person opens of it, each behind one of its ports.
        node: Its place in a gang; None for a job of its own.
        makes: Workflow whose jobs it makes; empty for a job that makes none.
        prebuild: Whether what is installed for it serves other jobs.
    """

    key: JobKey
    run_name: RunName
    workflow: str
    provider: str
    commands: tuple[str, ...]
    needs: Needs
    code_digest: Digest
    submitted_at: datetime
    image: str = ""
    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    working_dir: str = ""
    artifacts: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    python: str = ""
    stop_grace_seconds: float = 10.0
    max_duration_seconds: float | None = None
    owner: str = ""
    revision: Revision = Revision()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    secret_names: tuple[str, ...] = ()
    target: str = ""
    job_count: int = 1
    ports: tuple[int, ...] = ()
    registry_auth: RegistryAuth | None = None
    installs: tuple[str, ...] = ()
    idle_timeout_seconds: float | None = None
    retry: Retry | None = None
    cache: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    apps: tuple[App, ...] = ()
    node: Node | None = None
    makes: str = ""
    prebuild: Prebuild = Prebuild.USUAL

    @property
    def executor(self) -> ExecutorKind:
        return ExecutorKind.DOCKER if self.image else ExecutorKind.PROCESS

    @property
    def app_names(self) -> tuple[str, ...]:
        return tuple(app.name for app in self.apps)

    @property
    def secrets_needed(self) -> tuple[str, ...]:
        """Every secret whose value must come with the award."""
        return needed(self.secret_names, self.env, self.registry_auth)


class JobState(Enum):
    """States of a job; the value is the word that JSON shows."""

    SUBMITTED = "submitted"
    WAITING = "waiting"
    PREPARING = "preparing"
    RUNNING = "running"
    SAVING = "saving"
    DONE = "done"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ABORTING = "aborting"
    ABORTED = "aborted"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset(
    {JobState.DONE, JobState.FAILED, JobState.STOPPED, JobState.ABORTED, JobState.LOST}
)


RECLAIMED = "reclaimed"
"""Reason of an attempt that ended because the machine's owner took back what it ran on.

Nothing is wrong with the job: another agent may be given the next attempt.
"""


RELOADED = "reloaded"
"""Reason of a running attempt whose code follows the edits of its submitter from then on."""


@frozen
class StateChange:
    """A state of an attempt and when it began.

    Attributes:
        cause: For people; empty if it needs no words.
        reason: Stable word of the cause, as "out-of-memory"; empty if it needs none.
        exit_code: The job's own exit code where it has one; 128+n for signal n.
    """

    key: JobKey
    state: JobState
    at: datetime
    cause: str = ""
    reason: str = ""
    exit_code: int | None = None


CAUSE_CHARACTERS = 4000
REASON_CHARACTERS = 100
"""What is longer is cut off."""


def legible(change: StateChange) -> StateChange:
    """The same in words that can be kept and read again, whoever's they were."""
    cause = change.cause.encode(errors="replace").decode().replace("\0", "")
    reason = "".join(filter(str.isprintable, change.reason))
    return replace(change, cause=cause[:CAUSE_CHARACTERS], reason=reason[:REASON_CHARACTERS])


@frozen
class ArtifactSaved:
    """An artifact of an attempt; `path` as the workflow names it, `complete` once the job ended.

    Attributes:
        at: When it was looked at; None where an older agent does not say.
        changing: Files whose bytes may be of several moments, the first ones.
    """

    key: JobKey
    path: str
    digest: Digest
    files: int
    size_bytes: int
    complete: bool
    at: datetime | None = None
    changing: tuple[str, ...] = ()


class LogStream(Enum):
    """Which stream of a job."""

    STDOUT = "stdout"
    STDERR = "stderr"


@frozen
class LogFrame:
    """Bytes of a stream as the job wrote them, at an absolute offset, at most 64 KiB."""

    key: JobKey
    stream: LogStream
    offset_bytes: int
    data: bytes
    at: datetime


@frozen
class Gap:
    """Bytes [from, to) of a stream do not exist any more."""

    key: JobKey
    stream: LogStream
    from_bytes: int
    to_bytes: int
    reason: str


@frozen
class Fin:
    """The last word on an attempt: its end, length and BLAKE3 of both streams, what it kept."""

    key: JobKey
    state: StateChange
    stdout_bytes: int
    stdout_digest: Digest
    stderr_bytes: int
    stderr_digest: Digest
    artifacts: tuple[ArtifactSaved, ...] = ()


@frozen
class LogTail:
    """The end of an attempt's log, kept where its machine may be gone: a few KiB of each stream.

    Attributes:
        stdout_bytes: Length of the whole stream.
        at: When the attempt ended.
    """

    key: JobKey
    stdout_bytes: int
    stdout: bytes
    stderr_bytes: int
    stderr: bytes
    at: datetime


@frozen
class EndOfLog:
    """Everything that exists was sent, and the job goes on."""

    key: JobKey


@frozen
class JobRecord:
    """A job of a run as far as one peer knows it: its newest attempt.

    Attributes:
        again: It ended and is to be tried again, by whoever drives the run.
        reuse_key: What its result may stand in for; empty for nothing. See `reuse`.
        apps: Names of what a person can open of it while it runs.
    """

    key: JobKey
    workflow: str
    provider: str
    state: StateChange
    agent_id: PeerId | None = None
    agent_name: str = ""
    gpu_uuids: tuple[str, ...] = ()
    artifacts: tuple[ArtifactSaved, ...] = ()
    copies: tuple[Source, ...] = ()
    again: bool = False
    reuse_key: Digest = NOTHING
    apps: tuple[str, ...] = ()


@frozen
class RunRecord:
    """A run as far as one peer knows it.

    Attributes:
        job_count: How many jobs it has in all.
        given_by: The peer that gave it to whoever tells of it; empty for the owner of that home.
    """

    run_id: RunId
    run_name: RunName
    target: str
    owner: str
    submitted_at: datetime
    job_count: int
    revision: Revision = Revision()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    jobs: tuple[JobRecord, ...] = ()
    given_by: PeerId = PeerId("")


@frozen
class TagRecord:
    """A name for a run within a repository; `run_id` None: the name was taken back.

    Attributes:
        over: Until when whoever says this knew what was said of the name; None for nothing.
    """

    repo: str
    tag: str
    run_id: RunId | None
    run_name: str
    at: datetime
    over: datetime | None = None

    def is_beside(self, other: "TagRecord") -> bool:
        """Whether this one wins over another claim of the name without knowing of it."""
        unknown = self.over is None or self.over < other.at
        claimed = self.run_id is not None and other.run_id is not None
        return claimed and self.run_id != other.run_id and unknown
