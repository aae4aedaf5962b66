"""Domain values as the bytes that the agent's database keeps.

They are the messages of the protocol, so that a newer agent reads what an older one wrote by the
same rules by which peers understand each other.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from dstack_agent.audit.chain import Head
from dstack_mesh.card import HelloAnswer
from dstack_mesh.faults import Invalid
from dstack_mesh.signing import Signed
from dstack_mesh.v1 import job_pb2, membership_pb2, records_pb2, run_pb2
from dstack_mesh.wire.membership import answer_from_wire, answer_to_wire
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    JobKey,
    JobRecord,
    JobSpec,
    LogTail,
    RunRecord,
    StateChange,
    TagRecord,
)
from dstack_scheduler.removal import Removal
from dstack_scheduler.wire import convert, fields

M = TypeVar("M", bound=Message)

_DIGEST = re.compile(r"[0-9a-f]{64}")


def _parsed(kind: type[M], stored: bytes) -> M:
    """What others wrote may be anything. Raises Invalid."""
    try:
        return kind.FromString(stored)
    except DecodeError as error:
        raise Invalid(f"These bytes are no {kind.__name__}.", f"{error}.") from error


def pack_spec(spec: JobSpec) -> bytes:
    return convert.spec_to_wire(spec).SerializeToString()


def unpack_spec(stored: bytes) -> JobSpec:
    return convert.spec_from_wire(job_pb2.JobSpec.FromString(stored))


def pack_state(change: StateChange) -> bytes:
    return convert.state_to_wire(change).SerializeToString()


def unpack_state(stored: bytes) -> StateChange:
    return convert.state_from_wire(job_pb2.StateChange.FromString(stored))


def pack_artifact(artifact: ArtifactSaved) -> bytes:
    return convert.artifact_to_wire(artifact).SerializeToString()


def unpack_artifact(stored: bytes) -> ArtifactSaved:
    return convert.artifact_from_wire(run_pb2.ArtifactSaved.FromString(stored))


def pack_fin(fin: Fin) -> bytes:
    return convert.fin_to_wire(fin).SerializeToString()


def unpack_fin(stored: bytes) -> Fin:
    return convert.fin_from_wire(run_pb2.Fin.FromString(stored))


def pack_tag(tag: TagRecord) -> bytes:
    return convert.tag_to_wire(tag).SerializeToString()


def unpack_tag(stored: bytes) -> TagRecord:
    return convert.tag_from_wire(_parsed(run_pb2.TagRecord, stored))


def pack_removal(removal: Removal) -> bytes:
    return convert.removal_to_wire(removal).SerializeToString()


def unpack_removal(stored: bytes) -> Removal:
    return convert.removal_from_wire(_parsed(run_pb2.Removal, stored))


def pack_run(record: RunRecord) -> bytes:
    """The same bytes for the same run."""
    return convert.run_record_to_wire(record).SerializeToString(deterministic=True)


def unpack_run(stored: bytes) -> RunRecord:
    return convert.run_record_from_wire(_parsed(run_pb2.RunRecord, stored))


def pack_sheet(jobs: Iterable[JobRecord]) -> bytes:
    """The same bytes for the same jobs."""
    return convert.sheet_to_wire(jobs).SerializeToString(deterministic=True)


def unpack_sheet(stored: bytes) -> tuple[JobRecord, ...]:
    return convert.sheet_from_wire(_parsed(records_pb2.Sheet, stored))


def pack_job(job: JobRecord) -> bytes:
    return convert.job_record_to_wire(job).SerializeToString()


def unpack_job(stored: bytes) -> JobRecord:
    return convert.job_record_from_wire(_parsed(run_pb2.JobRecord, stored))


def pack_driven(job: DrivenJob) -> bytes:
    return convert.driven_to_wire(job).SerializeToString()


def unpack_driven(stored: bytes) -> DrivenJob:
    return convert.driven_from_wire(_parsed(run_pb2.DrivenJob, stored))


def pack_signed(signed: Signed) -> bytes:
    return convert.signed_to_wire(signed).SerializeToString()


def unpack_signed(stored: bytes) -> Signed:
    return convert.signed_from_wire(_parsed(job_pb2.SignedSpecification, stored))


def pack_tail(tail: LogTail) -> bytes:
    return convert.log_tail_to_wire(tail).SerializeToString()


def unpack_tail(stored: bytes) -> LogTail:
    return convert.log_tail_from_wire(_parsed(records_pb2.LogTail, stored))


def pack_copies(attempts: Sequence[JobKey]) -> bytes:
    return records_pb2.Copies(
        attempts=[convert.key_to_wire(key) for key in attempts]
    ).SerializeToString()


def unpack_copies(stored: bytes) -> tuple[JobKey, ...]:
    return tuple(map(convert.key_from_wire, _parsed(records_pb2.Copies, stored).attempts))


def pack_head(head: Head) -> bytes:
    return records_pb2.AuditHead(line=head.seq, digest=head.digest).SerializeToString()


def unpack_head(stored: bytes) -> Head:
    """Raises Invalid."""
    told = _parsed(records_pb2.AuditHead, stored)
    if not (0 < told.line <= fields.LARGEST and _DIGEST.fullmatch(told.digest)):
        raise Invalid("This is no end of an audit log.", f"Line {told.line}.")
    return Head(told.line, told.digest)


def pack_answer(answer: HelloAnswer) -> bytes:
    return answer_to_wire(answer).SerializeToString()


def unpack_answer(stored: bytes) -> HelloAnswer:
    return answer_from_wire(_parsed(membership_pb2.HelloResponse, stored))
