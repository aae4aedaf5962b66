"""Jobs, runs and verdicts as messages, and back.

`…_to_wire` takes any domain value. `…_from_wire` returns a valid value or raises `Invalid`: nothing
behind it checks again.
"""

from collections.abc import Iterable
from typing import assert_never

from dstack_mesh.faults import Invalid
from dstack_mesh.ids import RunName
from dstack_mesh.v1 import auction_pb2, job_pb2, run_pb2
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import (
    ArtifactSaved,
    EndOfLog,
    Fin,
    Gap,
    Input,
    JobKey,
    JobRecord,
    JobSpec,
    JobState,
    LogFrame,
    LogStream,
    Revision,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Later, Never, NotNow, Now, Reason, Verdict
from dstack_scheduler.wire import fields

FRAME_BYTES = 64 * 1024

_STATES: dict[JobState, job_pb2.JobState.ValueType] = {
    JobState.SUBMITTED: job_pb2.JOB_STATE_SUBMITTED,
    JobState.WAITING: job_pb2.JOB_STATE_WAITING,
    JobState.PREPARING: job_pb2.JOB_STATE_PREPARING,
    JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
    JobState.SAVING: job_pb2.JOB_STATE_SAVING,
    JobState.DONE: job_pb2.JOB_STATE_DONE,
    JobState.FAILED: job_pb2.JOB_STATE_FAILED,
    JobState.STOPPING: job_pb2.JOB_STATE_STOPPING,
    JobState.STOPPED: job_pb2.JOB_STATE_STOPPED,
    JobState.ABORTING: job_pb2.JOB_STATE_ABORTING,
    JobState.ABORTED: job_pb2.JOB_STATE_ABORTED,
    JobState.LOST: job_pb2.JOB_STATE_LOST,
}
_STATES_BACK = {wire: state for state, wire in _STATES.items()}

_STREAMS: dict[LogStream, run_pb2.LogStream.ValueType] = {
    LogStream.STDOUT: run_pb2.LOG_STREAM_STDOUT,
    LogStream.STDERR: run_pb2.LOG_STREAM_STDERR,
}
_STREAMS_BACK = {wire: stream for stream, wire in _STREAMS.items()}


def key_to_wire(key: JobKey) -> job_pb2.JobKey:
    return job_pb2.JobKey(run_id=key.run_id, job=key.job, attempt=key.attempt)


def key_from_wire(wire: job_pb2.JobKey, newest: bool = False) -> JobKey:
    """An attempt's key. Attempt 0 is valid only where it may stand for the `newest` one."""
    attempt = wire.attempt if newest else fields.attempt(wire.attempt)
    return JobKey(fields.run_id(wire.run_id), fields.index(wire.job), attempt)


def needs_to_wire(needs: Needs) -> job_pb2.Needs:
    return job_pb2.Needs(
        cpus=needs.cpus,
        memory_bytes=needs.memory_bytes,
        gpus=needs.gpus,
        gpu_name=needs.gpu_name,
        gpu_memory_bytes=needs.gpu_memory_bytes,
        shm_bytes=needs.shm_bytes,
        interruptible=needs.interruptible,
    )


def needs_from_wire(wire: job_pb2.Needs) -> Needs:
    return Needs(
        cpus=wire.cpus,
        memory_bytes=wire.memory_bytes,
        gpus=wire.gpus,
        gpu_name=fields.line(wire.gpu_name, "The name of the card"),
        gpu_memory_bytes=wire.gpu_memory_bytes,
        shm_bytes=wire.shm_bytes,
        interruptible=wire.interruptible,
    )


def source_to_wire(source: Source) -> job_pb2.Source:
    return job_pb2.Source(peer_id=source.peer_id, addresses=source.addresses)


def source_from_wire(wire: job_pb2.Source) -> Source:
    return Source(fields.peer_id(wire.peer_id), fields.addresses(wire.addresses))


def sources_from_wire(wires: Iterable[job_pb2.Source]) -> tuple[Source, ...]:
    return tuple(source_from_wire(wire) for wire in fields.items(wires, "Sources"))


def input_to_wire(what: Input) -> job_pb2.Input:
    return job_pb2.Input(
        digest=what.digest,
        path=what.path,
        sources=[source_to_wire(source) for source in what.sources],
        origin=what.origin,
        size_bytes=what.size_bytes,
    )


def input_from_wire(wire: job_pb2.Input) -> Input:
    return Input(
        digest=fields.digest(wire.digest, "The input's digest"),
        path=fields.path(wire.path, "The input's path"),
        sources=sources_from_wire(wire.sources),
        origin=fields.line(wire.origin, "The input's origin", fields.PATH),
        size_bytes=wire.size_bytes,
    )


def revision_to_wire(revision: Revision) -> job_pb2.Revision:
    return job_pb2.Revision(
        repo=revision.repo, branch=revision.branch, commit=revision.commit, dirty=revision.dirty
    )


def revision_from_wire(wire: job_pb2.Revision) -> Revision:
    return Revision(
        repo=fields.line(wire.repo, "The repository", fields.PATH),
        branch=fields.line(wire.branch, "The branch"),
        commit=fields.line(wire.commit, "The commit"),
        dirty=wire.dirty,
    )


def spec_to_wire(spec: JobSpec) -> job_pb2.JobSpec:
    limit = spec.max_duration_seconds
    return job_pb2.JobSpec(
        key=key_to_wire(spec.key),
        run_name=spec.run_name,
        workflow=spec.workflow,
        provider=spec.provider,
        commands=spec.commands,
        image=spec.image,
        entrypoint=spec.entrypoint,
        env=spec.env,
        working_dir=spec.working_dir,
        artifacts=[job_pb2.ArtifactRequest(path=path) for path in spec.artifacts],
        inputs=[input_to_wire(each) for each in spec.inputs],
        code_digest=spec.code_digest,
        python=spec.python,
        stop_grace=fields.seconds_to_wire(spec.stop_grace_seconds),
        max_duration=None if limit is None else fields.seconds_to_wire(limit),
        owner=spec.owner,
        revision=revision_to_wire(spec.revision),
        variables=spec.variables,
        submitted_at=fields.instant_to_wire(spec.submitted_at),
        needs=needs_to_wire(spec.needs),
        secret_names=spec.secret_names,
    )


def spec_from_wire(wire: job_pb2.JobSpec) -> JobSpec:
    limit = fields.seconds_from_wire(wire.max_duration) if wire.HasField("max_duration") else None
    return JobSpec(
        key=key_from_wire(wire.key),
        run_name=fields.run_name(wire.run_name),
        workflow=fields.line(wire.workflow, "The workflow"),
        provider=fields.line(wire.provider, "The provider"),
        commands=fields.texts(wire.commands, "Commands"),
        image=fields.line(wire.image, "The image", fields.PATH),
        entrypoint=fields.texts(wire.entrypoint, "The entrypoint"),
        env=fields.mapping(wire.env, "The environment"),
        working_dir=fields.inside(wire.working_dir, "The working directory"),
        artifacts=tuple(
            fields.path(each.path, "The artifact's path")
            for each in fields.items(wire.artifacts, "Artifacts")
        ),
        inputs=tuple(input_from_wire(each) for each in fields.items(wire.inputs, "Inputs")),
        code_digest=fields.digest(wire.code_digest, "The code's digest"),
        python=fields.line(wire.python, "The Python version"),
        stop_grace_seconds=fields.seconds_from_wire(wire.stop_grace),
        max_duration_seconds=limit,
        owner=fields.line(wire.owner, "The owner"),
        revision=revision_from_wire(wire.revision),
        variables=fields.mapping(wire.variables, "Variables"),
        submitted_at=fields.instant_from_wire(wire.submitted_at),
        needs=needs_from_wire(wire.needs),
        secret_names=fields.lines(wire.secret_names, "Names of secrets"),
    )


def state_to_wire(change: StateChange) -> job_pb2.StateChange:
    return job_pb2.StateChange(
        key=key_to_wire(change.key),
        state=_STATES[change.state],
        cause=change.cause,
        at=fields.instant_to_wire(change.at),
        reason=change.reason,
        exit_code=change.exit_code,
    )


def state_from_wire(wire: job_pb2.StateChange) -> StateChange:
    state = _STATES_BACK.get(wire.state)
    if state is None:
        raise fields.refuse("The state", wire.state, "it is none that this version knows")
    return StateChange(
        key=key_from_wire(wire.key),
        state=state,
        at=fields.instant_from_wire(wire.at),
        cause=fields.text(wire.cause, "The cause"),
        reason=fields.line(wire.reason, "The reason"),
        exit_code=wire.exit_code if wire.HasField("exit_code") else None,
    )


def _stream_from_wire(wire: run_pb2.LogStream.ValueType) -> LogStream:
    stream = _STREAMS_BACK.get(wire)
    if stream is None:
        raise fields.refuse("The log's stream", wire, "it is stdout or stderr")
    return stream


def frame_to_wire(frame: LogFrame) -> run_pb2.LogFrame:
    return run_pb2.LogFrame(
        key=key_to_wire(frame.key),
        stream=_STREAMS[frame.stream],
        offset_bytes=frame.offset_bytes,
        data=frame.data,
        at=fields.instant_to_wire(frame.at),
    )


def frame_from_wire(wire: run_pb2.LogFrame) -> LogFrame:
    if len(wire.data) > FRAME_BYTES:
        raise fields.refuse("The log frame", len(wire.data), f"it has at most {FRAME_BYTES} bytes")
    return LogFrame(
        key=key_from_wire(wire.key),
        stream=_stream_from_wire(wire.stream),
        offset_bytes=wire.offset_bytes,
        data=wire.data,
        at=fields.instant_from_wire(wire.at),
    )


def gap_to_wire(gap: Gap) -> run_pb2.Gap:
    return run_pb2.Gap(
        key=key_to_wire(gap.key),
        stream=_STREAMS[gap.stream],
        from_bytes=gap.from_bytes,
        to_bytes=gap.to_bytes,
        reason=gap.reason,
    )


def gap_from_wire(wire: run_pb2.Gap) -> Gap:
    if wire.to_bytes < wire.from_bytes:
        raise fields.refuse("The gap", (wire.from_bytes, wire.to_bytes), "it ends after it begins")
    return Gap(
        key=key_from_wire(wire.key),
        stream=_stream_from_wire(wire.stream),
        from_bytes=wire.from_bytes,
        to_bytes=wire.to_bytes,
        reason=fields.text(wire.reason, "The reason"),
    )


def artifact_to_wire(artifact: ArtifactSaved) -> run_pb2.ArtifactSaved:
    return run_pb2.ArtifactSaved(
        key=key_to_wire(artifact.key),
        path=artifact.path,
        digest=artifact.digest,
        files=artifact.files,
        size_bytes=artifact.size_bytes,
        complete=artifact.complete,
    )


def artifact_from_wire(wire: run_pb2.ArtifactSaved) -> ArtifactSaved:
    return ArtifactSaved(
        key=key_from_wire(wire.key),
        path=fields.path(wire.path, "The artifact's path"),
        digest=fields.digest(wire.digest, "The artifact's digest"),
        files=wire.files,
        size_bytes=wire.size_bytes,
        complete=wire.complete,
    )


def _artifacts_from_wire(wires: Iterable[run_pb2.ArtifactSaved]) -> tuple[ArtifactSaved, ...]:
    return tuple(artifact_from_wire(wire) for wire in fields.items(wires, "Artifacts"))


def fin_to_wire(fin: Fin) -> run_pb2.Fin:
    return run_pb2.Fin(
        key=key_to_wire(fin.key),
        state=state_to_wire(fin.state),
        stdout_bytes=fin.stdout_bytes,
        stdout_digest=fin.stdout_digest,
        stderr_bytes=fin.stderr_bytes,
        stderr_digest=fin.stderr_digest,
        artifacts=[artifact_to_wire(artifact) for artifact in fin.artifacts],
    )


def fin_from_wire(wire: run_pb2.Fin) -> Fin:
    state = state_from_wire(wire.state)
    if not state.state.ended:
        raise fields.refuse("The last state", state.state.value, "a job that ended has another")
    return Fin(
        key=key_from_wire(wire.key),
        state=state,
        stdout_bytes=wire.stdout_bytes,
        stdout_digest=fields.digest(wire.stdout_digest),
        stderr_bytes=wire.stderr_bytes,
        stderr_digest=fields.digest(wire.stderr_digest),
        artifacts=_artifacts_from_wire(wire.artifacts),
    )


def end_of_log_to_wire(end: EndOfLog) -> run_pb2.EndOfLog:
    return run_pb2.EndOfLog(key=key_to_wire(end.key))


def end_of_log_from_wire(wire: run_pb2.EndOfLog) -> EndOfLog:
    return EndOfLog(key_from_wire(wire.key))


def job_record_to_wire(record: JobRecord) -> run_pb2.JobRecord:
    return run_pb2.JobRecord(
        key=key_to_wire(record.key),
        workflow=record.workflow,
        provider=record.provider,
        state=state_to_wire(record.state),
        agent_id=record.agent_id or "",
        agent_name=record.agent_name,
        gpu_uuids=record.gpu_uuids,
        artifacts=[artifact_to_wire(artifact) for artifact in record.artifacts],
        copies=[source_to_wire(source) for source in record.copies],
    )


def job_record_from_wire(wire: run_pb2.JobRecord) -> JobRecord:
    return JobRecord(
        key=key_from_wire(wire.key),
        workflow=fields.line(wire.workflow, "The workflow"),
        provider=fields.line(wire.provider, "The provider"),
        state=state_from_wire(wire.state),
        agent_id=fields.peer_id(wire.agent_id) if wire.agent_id else None,
        agent_name=fields.line(wire.agent_name, "The agent's name"),
        gpu_uuids=fields.lines(wire.gpu_uuids, "Cards"),
        artifacts=_artifacts_from_wire(wire.artifacts),
        copies=sources_from_wire(wire.copies),
    )


def run_record_to_wire(record: RunRecord) -> run_pb2.RunRecord:
    return run_pb2.RunRecord(
        run_id=record.run_id,
        run_name=record.run_name,
        target=record.target,
        owner=record.owner,
        submitted_at=fields.instant_to_wire(record.submitted_at),
        revision=revision_to_wire(record.revision),
        variables=record.variables,
        jobs=[job_record_to_wire(job) for job in record.jobs],
        job_count=record.job_count,
    )


def run_record_from_wire(wire: run_pb2.RunRecord) -> RunRecord:
    return RunRecord(
        run_id=fields.run_id(wire.run_id),
        run_name=fields.run_name(wire.run_name),
        target=fields.line(wire.target, "The target"),
        owner=fields.line(wire.owner, "The owner"),
        submitted_at=fields.instant_from_wire(wire.submitted_at),
        job_count=wire.job_count,
        revision=revision_from_wire(wire.revision),
        variables=fields.mapping(wire.variables, "Variables"),
        jobs=tuple(job_record_from_wire(job) for job in fields.items(wire.jobs, "Jobs")),
    )


def tag_to_wire(tag: TagRecord) -> run_pb2.TagRecord:
    return run_pb2.TagRecord(
        repo=tag.repo,
        tag=tag.tag,
        run_id=tag.run_id or "",
        run_name=tag.run_name,
        at=fields.instant_to_wire(tag.at),
    )


def tag_from_wire(wire: run_pb2.TagRecord) -> TagRecord:
    return TagRecord(
        repo=fields.line(wire.repo, "The repository", fields.PATH),
        tag=fields.line(fields.path(wire.tag, "The tag"), "The tag"),
        run_id=fields.run_id(wire.run_id) if wire.run_id else None,
        run_name=fields.run_name(wire.run_name) if wire.run_name else RunName(""),
        at=fields.instant_from_wire(wire.at),
    )


def driven_to_wire(job: DrivenJob) -> run_pb2.DrivenJob:
    return run_pb2.DrivenJob(
        spec=spec_to_wire(job.spec),
        after=job.after,
        placement=job.placement,
        awarded=None if job.awarded is None else source_to_wire(job.awarded),
    )


def driven_from_wire(wire: run_pb2.DrivenJob) -> DrivenJob:
    spec = spec_from_wire(wire.spec)
    for needed in fields.items(wire.after, "Jobs before"):
        if needed >= spec.key.job:
            raise fields.refuse("A job before", needed, f"it comes before job {spec.key.job}")
    return DrivenJob(
        spec=spec,
        after=tuple(wire.after),
        placement=fields.line(wire.placement, "The placement"),
        awarded=source_from_wire(wire.awarded) if wire.HasField("awarded") else None,
    )


def _reasons_to_wire(reasons: Iterable[Reason]) -> list[auction_pb2.Reason]:
    return [
        auction_pb2.Reason(code=reason.code, message=reason.message, hint=reason.hint)
        for reason in reasons
    ]


def _reasons_from_wire(wires: Iterable[auction_pb2.Reason]) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            code=fields.line(wire.code, "The reason's code"),
            message=fields.text(wire.message, "The reason"),
            hint=fields.text(wire.hint, "The hint"),
        )
        for wire in fields.items(wires, "Reasons")
    )


def verdict_to_wire(verdict: Verdict) -> auction_pb2.Verdict:
    match verdict:
        case Now(gpu_uuids, gpus_left, running):
            now = auction_pb2.Now(gpu_uuids=gpu_uuids, gpus_left=gpus_left, running=running)
            return auction_pb2.Verdict(now=now)
        case Later(reasons, wait):
            later = auction_pb2.Later(
                reasons=_reasons_to_wire(reasons),
                wait=None if wait is None else fields.seconds_to_wire(wait),
            )
            return auction_pb2.Verdict(later=later)
        case NotNow(reasons):
            not_now = auction_pb2.NotNow(reasons=_reasons_to_wire(reasons))
            return auction_pb2.Verdict(not_now=not_now)
        case Never(reasons):
            return auction_pb2.Verdict(never=auction_pb2.Never(reasons=_reasons_to_wire(reasons)))
        case _:
            assert_never(verdict)


def verdict_from_wire(wire: auction_pb2.Verdict) -> Verdict:
    match wire.WhichOneof("kind"):
        case "now":
            cards = fields.lines(wire.now.gpu_uuids, "Cards")
            return Now(cards, wire.now.gpus_left, wire.now.running)
        case "later":
            wait = wire.later.wait if wire.later.HasField("wait") else None
            return Later(
                _reasons_from_wire(wire.later.reasons),
                None if wait is None else fields.seconds_from_wire(wait),
            )
        case "not_now":
            return NotNow(_reasons_from_wire(wire.not_now.reasons))
        case "never":
            return Never(_reasons_from_wire(wire.never.reasons))
        case _:
            raise Invalid("The verdict is not valid.", "It says nothing that this version knows.")
