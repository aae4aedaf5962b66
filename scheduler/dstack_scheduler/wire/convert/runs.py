"""What an agent tells of its runs as messages, and back: logs, artifacts, records."""

from collections.abc import Iterable

from dstack_mesh.ids import PeerId, RunName
from dstack_mesh.v1 import records_pb2, run_pb2
from dstack_scheduler.agent_port import DrivenJob, Listing, Telling
from dstack_scheduler.job import (
    NOTHING,
    ArtifactSaved,
    EndOfLog,
    Fin,
    Gap,
    JobRecord,
    LogFrame,
    LogStream,
    LogTail,
    RunRecord,
    TagRecord,
)
from dstack_scheduler.removal import Removal
from dstack_scheduler.wire import fields
from dstack_scheduler.wire.convert.jobs import (
    input_from_wire,
    input_to_wire,
    key_from_wire,
    key_to_wire,
    revision_from_wire,
    revision_to_wire,
    signed_from_wire,
    signed_to_wire,
    source_from_wire,
    source_to_wire,
    sources_from_wire,
    spec_from_wire,
    spec_to_wire,
    state_from_wire,
    state_to_wire,
)

FRAME_BYTES = 64 * 1024

_STREAMS: dict[LogStream, run_pb2.LogStream.ValueType] = {
    LogStream.STDOUT: run_pb2.LOG_STREAM_STDOUT,
    LogStream.STDERR: run_pb2.LOG_STREAM_STDERR,
}
_STREAMS_BACK = {wire: stream for stream, wire in _STREAMS.items()}


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
        at=fields.instant_to_wire(artifact.at) if artifact.at is not None else None,
        changing=artifact.changing,
    )


def artifact_from_wire(wire: run_pb2.ArtifactSaved) -> ArtifactSaved:
    return ArtifactSaved(
        key=key_from_wire(wire.key),
        path=fields.path(wire.path, "The artifact's path"),
        digest=fields.digest(wire.digest, "The artifact's digest"),
        files=wire.files,
        size_bytes=wire.size_bytes,
        complete=wire.complete,
        at=fields.instant_from_wire(wire.at) if wire.HasField("at") else None,
        changing=tuple(
            fields.path(each, "A changing file")
            for each in fields.items(wire.changing, "Changing files")
        ),
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
        again=record.again,
        reuse_key=record.reuse_key,
        apps=record.apps,
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
        again=wire.again,
        reuse_key=fields.digest(wire.reuse_key) if wire.reuse_key else NOTHING,
        apps=fields.lines(wire.apps, "Apps"),
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
        given_by=record.given_by,
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
        given_by=fields.peer_id(wire.given_by) if wire.given_by else PeerId(""),
    )


def sheet_to_wire(jobs: Iterable[JobRecord]) -> records_pb2.Sheet:
    return records_pb2.Sheet(jobs=[job_record_to_wire(job) for job in jobs])


def sheet_from_wire(wire: records_pb2.Sheet) -> tuple[JobRecord, ...]:
    return tuple(job_record_from_wire(job) for job in fields.items(wire.jobs, "Jobs"))


def tag_to_wire(tag: TagRecord) -> run_pb2.TagRecord:
    return run_pb2.TagRecord(
        repo=tag.repo,
        tag=tag.tag,
        run_id=tag.run_id or "",
        run_name=tag.run_name,
        at=fields.instant_to_wire(tag.at),
        over=fields.instant_to_wire(tag.over) if tag.over is not None else None,
    )


def tag_from_wire(wire: run_pb2.TagRecord) -> TagRecord:
    return TagRecord(
        repo=fields.line(wire.repo, "The repository", fields.PATH),
        tag=fields.line(fields.path(wire.tag, "The tag"), "The tag"),
        run_id=fields.run_id(wire.run_id) if wire.run_id else None,
        run_name=fields.run_name(wire.run_name) if wire.run_name else RunName(""),
        at=fields.instant_from_wire(wire.at),
        over=fields.instant_from_wire(wire.over) if wire.HasField("over") else None,
    )


def removal_to_wire(removal: Removal) -> run_pb2.Removal:
    return run_pb2.Removal(
        run_id=removal.run_id,
        at=fields.instant_to_wire(removal.at),
        by=removal.by,
        checked=removal.checked,
    )


def removal_from_wire(wire: run_pb2.Removal) -> Removal:
    return Removal(
        run_id=fields.run_id(wire.run_id),
        at=fields.instant_from_wire(wire.at),
        by=fields.peer_id(wire.by),
        checked=wire.checked,
    )


def _removals_from_wire(wires: Iterable[run_pb2.Removal]) -> tuple[Removal, ...]:
    return tuple(removal_from_wire(wire) for wire in fields.items(wires, "Removals"))


def telling_to_wire(telling: Telling) -> run_pb2.Telling:
    return run_pb2.Telling(
        agent_id=telling.agent_id,
        agent_name=telling.agent_name,
        heard_at=fields.instant_to_wire(telling.heard_at),
        answers=telling.answers,
        said_at=fields.instant_to_wire(telling.said_at),
        runs=[run_record_to_wire(run) for run in telling.runs],
        tags=[tag_to_wire(tag) for tag in telling.tags],
        revoked=telling.revoked,
        removed=[removal_to_wire(one) for one in telling.removed],
    )


def telling_from_wire(wire: run_pb2.Telling) -> Telling:
    return Telling(
        agent_id=fields.peer_id(wire.agent_id),
        agent_name=fields.line(wire.agent_name, "The agent's name"),
        heard_at=fields.instant_from_wire(wire.heard_at),
        answers=wire.answers,
        said_at=fields.instant_from_wire(wire.said_at),
        runs=tuple(run_record_from_wire(run) for run in fields.items(wire.runs, "Runs")),
        tags=tuple(tag_from_wire(tag) for tag in fields.items(wire.tags, "Tags")),
        revoked=wire.revoked,
        removed=_removals_from_wire(wire.removed),
    )


def listing_to_wire(listing: Listing) -> run_pb2.ListResponse:
    return run_pb2.ListResponse(
        runs=[run_record_to_wire(run) for run in listing.runs],
        tags=[tag_to_wire(tag) for tag in listing.tags],
        others=[telling_to_wire(telling) for telling in listing.others],
        for_all=listing.for_all,
        removed=[removal_to_wire(one) for one in listing.removed],
    )


def listing_from_wire(wire: run_pb2.ListResponse) -> Listing:
    return Listing(
        runs=tuple(run_record_from_wire(run) for run in fields.items(wire.runs, "Runs")),
        tags=tuple(tag_from_wire(tag) for tag in fields.items(wire.tags, "Tags")),
        others=tuple(telling_from_wire(one) for one in fields.items(wire.others, "Tellings")),
        for_all=wire.for_all,
        removed=_removals_from_wire(wire.removed),
    )


def log_tail_to_wire(tail: LogTail) -> records_pb2.LogTail:
    return records_pb2.LogTail(
        key=key_to_wire(tail.key),
        stdout_bytes=tail.stdout_bytes,
        stdout=tail.stdout,
        stderr_bytes=tail.stderr_bytes,
        stderr=tail.stderr,
        at=fields.instant_to_wire(tail.at),
    )


def log_tail_from_wire(wire: records_pb2.LogTail) -> LogTail:
    if len(wire.stdout) > wire.stdout_bytes or len(wire.stderr) > wire.stderr_bytes:
        raise fields.refuse("The log's end", wire.stdout_bytes, "it is no longer than the log")
    return LogTail(
        key=key_from_wire(wire.key),
        stdout_bytes=wire.stdout_bytes,
        stdout=wire.stdout,
        stderr_bytes=wire.stderr_bytes,
        stderr=wire.stderr,
        at=fields.instant_from_wire(wire.at),
    )


def driven_to_wire(job: DrivenJob) -> run_pb2.DrivenJob:
    return run_pb2.DrivenJob(
        spec=spec_to_wire(job.spec),
        after=job.after,
        placement=job.placement,
        awarded=None if job.awarded is None else source_to_wire(job.awarded),
        signed=None if job.signed is None else signed_to_wire(job.signed),
        resumes=[input_to_wire(each) for each in job.resumes],
    )


def driven_from_wire(wire: run_pb2.DrivenJob) -> DrivenJob:
    spec = spec_from_wire(wire.spec)
    for needed in fields.items(wire.after, "Jobs before"):
        if needed == spec.key.job:
            raise fields.refuse("A job before", needed, "it is the job itself")
    return DrivenJob(
        spec=spec,
        after=tuple(wire.after),
        placement=fields.line(wire.placement, "The placement"),
        awarded=source_from_wire(wire.awarded) if wire.HasField("awarded") else None,
        signed=signed_from_wire(wire.signed) if wire.HasField("signed") else None,
        resumes=tuple(input_from_wire(each) for each in fields.items(wire.resumes, "Inputs")),
    )
