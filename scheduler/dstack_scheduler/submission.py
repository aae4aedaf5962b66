"""A run as it is handed to a driver: by a command that planned it, or by another driver."""

from collections.abc import Mapping
from dataclasses import field, replace
from datetime import datetime

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_scheduler.agent_port import OTHER_THAN, DrivenJob
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.job import JobKey, JobSpec, Revision, RunRecord
from dstack_scheduler.plan import Plan, PlannedJob, Reuse


@frozen
class Submission:
    """Everything a driver must know of a run.

    Attributes:
        jobs: In order; jobs come after everything they need. The requested job is the last one.
        reuses: Inputs that exist already, by index of the job; looked up before anything starts.
        epoch: Of the driver; each new driver of a run takes a higher one.
        secrets: Values by name. They travel with an award and are kept nowhere.
        code_bytes: Size of the code, for progress.
        behalf: Who handed the run to the agent that drives it; the owner where a command drives.
    """

    record: RunRecord
    jobs: tuple[DrivenJob, ...]
    reuses: Mapping[int, tuple[Reuse, ...]] = field(default_factory=dict[int, tuple[Reuse, ...]])
    epoch: int = 1
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    code_bytes: int = 0
    behalf: Asker = OWNER


@frozen
class HandOver:
    """What remains to be driven: arguments of `Agent.drive`, and the code that it needs for it."""

    record: RunRecord
    jobs: tuple[DrivenJob, ...]
    epoch: int
    code_digest: Digest

    def seen_elsewhere(self, here: PeerId) -> "HandOver":
        """The same in words that mean the same at another driver: "local" is this machine there."""
        words = {"local": here, "remote": f"{OTHER_THAN}{here}"}
        jobs = tuple(
            replace(job, placement=words.get(job.placement, job.placement)) for job in self.jobs
        )
        return replace(self, jobs=jobs)

    def submission(self, secrets: Mapping[str, str] | None = None) -> Submission:
        """The same as whoever takes over hands it to its own driver."""
        return Submission(self.record, self.jobs, epoch=self.epoch, secrets=secrets or {})


@frozen
class Submitter:
    """Who submits, when, and from which code.

    Attributes:
        owner: For display: "name@machine".
        placement: "" for what the workflow says, and else this machine first; "local", "remote",
            or an agent's id or name.
    """

    owner: str
    submitted_at: datetime
    code_digest: Digest
    revision: Revision = field(default_factory=Revision)
    placement: str = ""
    stop_grace_seconds: float = 10.0
    code_bytes: int = 0
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])


def submission_of(plan: Plan, run_id: RunId, run_name: RunName, by: Submitter) -> Submission:
    """A plan as a run with an id and a name, ready for `Driver`."""
    record = RunRecord(
        run_id=run_id,
        run_name=run_name,
        target=plan.target,
        owner=by.owner,
        submitted_at=by.submitted_at,
        # Whoever makes jobs makes one at least.
        job_count=len(plan.jobs) + sum(bool(job.makes) for job in plan.jobs),
        revision=by.revision,
        variables=plan.variables,
    )
    return Submission(
        record=record,
        jobs=tuple(
            DrivenJob(_spec(job, record, by), job.after, placement=by.placement or job.place)
            for job in plan.jobs
        ),
        reuses={job.index: job.reuses for job in plan.jobs if job.reuses},
        secrets=by.secrets,
        code_bytes=by.code_bytes,
    )


def with_attempt(job: DrivenJob, attempt: int) -> DrivenJob:
    """The same job, to be tried under another attempt's number."""
    return replace(job, spec=replace(job.spec, key=replace(job.spec.key, attempt=attempt)))


def _spec(job: PlannedJob, record: RunRecord, by: Submitter) -> JobSpec:
    return JobSpec(
        key=JobKey(record.run_id, job.index),
        run_name=record.run_name,
        workflow=job.workflow,
        provider=job.provider,
        commands=job.commands,
        needs=job.needs,
        code_digest=by.code_digest,
        submitted_at=by.submitted_at,
        image=job.image,
        entrypoint=job.entrypoint,
        env=job.env,
        working_dir=job.working_dir,
        artifacts=job.artifacts,
        python=job.python,
        stop_grace_seconds=by.stop_grace_seconds,
        max_duration_seconds=job.max_duration_seconds,
        owner=by.owner,
        revision=by.revision,
        variables=job.variables,
        secret_names=job.secret_names,
        target=record.target,
        job_count=record.job_count,
        ports=job.ports,
        registry_auth=job.registry_auth,
        installs=job.installs,
        idle_timeout_seconds=job.idle_timeout_seconds,
        retry=job.retry,
        cache=job.cache,
        counted=job.counted,
        apps=job.apps,
        node=job.node,
        makes=job.makes,
        prebuild=job.prebuild,
    )
