"""What is signed of a run: a submitter's specification, an agent's chain of events.

A driver may change which attempt a job is and lays in what the jobs before it kept, so neither is
in what a submitter signs: the agent's first event names both. Every event names the hash of the one
before, so nothing can be left out, added or put elsewhere.
"""

import hashlib
from dataclasses import replace

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.signing import Signed
from dstack_scheduler.job import ArtifactSaved, Fin, Input, JobKey, JobSpec, StateChange

SPECIFICATION = "specification"
EVENT = "event"
"""Purposes of signatures."""


@frozen
class Taken:
    """The agent took the job.

    Attributes:
        specification: As a submitter signs it.
        inputs: What is laid in, without who has it.
        given_by: Who gave it, as TLS proved it; empty for the owner of the agent's home.
    """

    specification: JobSpec
    inputs: tuple[Input, ...]
    given_by: PeerId
    gpu_uuids: tuple[str, ...] = ()


@frozen
class Vouched:
    """The agent keeps the signature of this submitter."""

    peer_id: PeerId


Said = Taken | StateChange | ArtifactSaved | Fin | Vouched


@frozen
class Event:
    """Something an agent says of an attempt.

    Attributes:
        epoch: Of the driver that awarded it.
        seq: 1, 2, 3 …
        previous: Hash of the event before; empty in the first.
    """

    key: JobKey
    epoch: int
    seq: int
    previous: bytes
    said: Said


@frozen
class Evidence:
    """Everything that is signed of an attempt: exact bytes, believed only after they were walked.

    Attributes:
        events: The agent's, in order.
        specification: The submitter's; None while there is none.
    """

    key: JobKey
    events: tuple[Signed, ...]
    specification: Signed | None = None


def specification_of(spec: JobSpec) -> JobSpec:
    """What a submitter signs of a job: the same for every attempt, input and place."""
    node = spec.node and replace(spec.node, master="")
    return replace(spec, key=replace(spec.key, attempt=1), inputs=(), node=node)


def taken(spec: JobSpec, given_by: PeerId, gpu_uuids: tuple[str, ...]) -> Taken:
    """What an agent says first of an attempt."""
    inputs = tuple(replace(each, sources=()) for each in spec.inputs)
    return Taken(specification_of(spec), inputs, given_by, gpu_uuids)


def link(body: bytes) -> bytes:
    """What the event after this one names."""
    return hashlib.sha256(body).digest()
