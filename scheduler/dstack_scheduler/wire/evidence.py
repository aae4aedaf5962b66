"""Specifications and events as the bytes that are signed, and the client of EvidenceService."""

from collections.abc import Callable
from typing import TypeVar

import grpc.aio
from google.protobuf.message import DecodeError, Message

from dstack_mesh.faults import Damaged, Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.signing import Signed
from dstack_mesh.v1 import evidence_pb2 as pb
from dstack_mesh.v1 import job_pb2
from dstack_mesh.v1.evidence_pb2_grpc import EvidenceServiceStub
from dstack_mesh.wire.errors import translated
from dstack_scheduler.evidence import Event, Evidence, Taken, Vouched
from dstack_scheduler.job import ArtifactSaved, Fin, JobSpec, StateChange
from dstack_scheduler.wire import convert, fields

WRITE_SECONDS = 15.0
TELL_SECONDS = 10.0

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@frozen
class Told:
    """What an agent tells of a run. With `more` there was too much of it."""

    attempts: tuple[Evidence, ...]
    more: bool = False


class EvidenceClient:
    """Asks one agent what is signed, and brings it signatures. `name` is what errors call it."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        name: str,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._stub = EvidenceServiceStub(channel)
        self._name = name
        self._metadata = metadata

    async def vouch(self, run_id: RunId, job: int, signed: Signed) -> None:
        """Brings a submitter's signature. Raises MeshError; Refused by older agents."""
        request = pb.VouchRequest(
            run_id=run_id, job=job, specification=convert.signed_to_wire(signed)
        )
        with translated(self._name):
            await self._stub.Vouch(request, timeout=WRITE_SECONDS, metadata=self._metadata)

    async def tell(self, run_id: RunId) -> Told:
        """What is signed of a run. Raises MeshError; Refused by older agents."""
        with translated(self._name):
            told = await self._stub.Tell(pb.TellRequest(run_id=run_id), timeout=TELL_SECONDS)
        return Told(tuple(map(evidence_from_wire, told.attempts)), told.more)


def specification_bytes(spec: JobSpec) -> bytes:
    """What a submitter signs."""
    return convert.spec_to_wire(spec).SerializeToString(deterministic=True)


def read_specification(body: bytes) -> JobSpec:
    """What a submitter signed. Raises Damaged."""
    return _read(job_pb2.JobSpec, body, convert.spec_from_wire)


def event_bytes(event: Event) -> bytes:
    """What an agent signs."""
    key = convert.key_to_wire(event.key)
    wire = pb.Event(key=key, epoch=event.epoch, seq=event.seq, previous=event.previous)
    match event.said:
        case Taken(specification, inputs, given_by, gpu_uuids):
            wire.taken.CopyFrom(
                pb.Taken(
                    specification=convert.spec_to_wire(specification),
                    inputs=map(convert.input_to_wire, inputs),
                    given_by=given_by,
                    gpu_uuids=gpu_uuids,
                )
            )
        case StateChange():
            wire.state.CopyFrom(convert.state_to_wire(event.said))
        case ArtifactSaved():
            wire.artifact.CopyFrom(convert.artifact_to_wire(event.said))
        case Fin():
            wire.fin.CopyFrom(convert.fin_to_wire(event.said))
        case Vouched(peer_id):
            wire.vouched.CopyFrom(pb.Vouched(peer_id=peer_id))
    return wire.SerializeToString(deterministic=True)


def read_event(body: bytes) -> Event:
    """What an agent signed. Raises Damaged."""
    return _read(pb.Event, body, _event_from_wire)


def evidence_to_wire(evidence: Evidence) -> pb.Evidence:
    vouched = evidence.specification
    return pb.Evidence(
        key=convert.key_to_wire(evidence.key),
        agent_key=evidence.events[0].key if evidence.events else b"",
        events=[pb.SignedEvent(body=e.body, signature=e.signature) for e in evidence.events],
        specification=None if vouched is None else convert.signed_to_wire(vouched),
    )


def evidence_from_wire(wire: pb.Evidence) -> Evidence:
    """Believe it only after it was walked. Raises Invalid for what cannot be one."""
    events = fields.items(wire.events, "Events")
    return Evidence(
        key=convert.key_from_wire(wire.key),
        events=tuple(fields.signed(each.body, wire.agent_key, each.signature) for each in events),
        specification=convert.signed_from_wire(wire.specification)
        if wire.HasField("specification")
        else None,
    )


def pack_evidence(evidence: Evidence) -> bytes:
    """As it is published; the same bytes for the same evidence."""
    return evidence_to_wire(evidence).SerializeToString(deterministic=True)


def unpack_evidence(stored: bytes) -> Evidence:
    """What somebody published. Raises Invalid."""
    try:
        return evidence_from_wire(pb.Evidence.FromString(stored))
    except DecodeError as error:
        raise Invalid("These bytes are no evidence.", f"{error}.") from error


def _event_from_wire(wire: pb.Event) -> Event:
    return Event(
        key=convert.key_from_wire(wire.key),
        epoch=wire.epoch,
        seq=wire.seq,
        previous=wire.previous,
        said=_said_from_wire(wire),
    )


def _said_from_wire(wire: pb.Event) -> Taken | StateChange | ArtifactSaved | Fin | Vouched:
    match wire.WhichOneof("kind"):
        case "taken":
            return _taken_from_wire(wire.taken)
        case "state":
            return convert.state_from_wire(wire.state)
        case "artifact":
            return convert.artifact_from_wire(wire.artifact)
        case "fin":
            return convert.fin_from_wire(wire.fin)
        case "vouched":
            return Vouched(fields.peer_id(wire.vouched.peer_id))
        case _:
            raise Invalid("The event says nothing that this version knows.")


def _taken_from_wire(wire: pb.Taken) -> Taken:
    inputs = fields.items(wire.inputs, "Inputs")
    return Taken(
        specification=convert.spec_from_wire(wire.specification),
        inputs=tuple(map(convert.input_from_wire, inputs)),
        given_by=fields.peer_id(wire.given_by) if wire.given_by else PeerId(""),
        gpu_uuids=fields.lines(wire.gpu_uuids, "Cards"),
    )


def _read(kind: type[M], body: bytes, from_wire: Callable[[M], T]) -> T:
    try:
        return from_wire(kind.FromString(body))
    except (DecodeError, Invalid) as error:
        raise Damaged("What was signed cannot be read.", f"{error}", code="unreadable") from error
