"""Hello over gRPC, and the words of membership.proto as domain types and back."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from dstack_mesh.card import HelloAnswer, PeerCard, PeerHint
from dstack_mesh.faults import Invalid
from dstack_mesh.identity import is_id
from dstack_mesh.ids import Address, MeshId, PeerId, RunId, RunName
from dstack_mesh.machine import (
    AgentState,
    CardLoad,
    ExecutorKind,
    Gpu,
    Isolation,
    JobLoad,
    Load,
    Machine,
    RunningJob,
)
from dstack_mesh.own_name import printable
from dstack_mesh.v1 import membership_pb2 as pb
from dstack_mesh.v1 import membership_pb2_grpc as rpc
from dstack_mesh.wire.errors import translated

MOST_HINTS = 256
MOST_ADDRESSES = 64
LONGEST_ADDRESS = 255
MOST_GPUS = 256
MOST_JOBS = 1024
MOST_CPUS = 1e6
LONGEST_NAME = 200

_STATES = {
    AgentState.ALIVE: pb.AGENT_STATE_ALIVE,
    AgentState.DRAINING: pb.AGENT_STATE_DRAINING,
    AgentState.PAUSED: pb.AGENT_STATE_PAUSED,
}
_STATES_BACK = {wire: state for state, wire in _STATES.items()}
_EXECUTORS = {
    ExecutorKind.PROCESS: pb.EXECUTOR_KIND_PROCESS,
    ExecutorKind.DOCKER: pb.EXECUTOR_KIND_DOCKER,
}
_EXECUTORS_BACK = {wire: kind for kind, wire in _EXECUTORS.items()}


_ISOLATION = {
    Isolation.ROOTLESS: pb.ISOLATION_ROOTLESS,
    Isolation.USERNS: pb.ISOLATION_USERNS,
    Isolation.LANDLOCK: pb.ISOLATION_LANDLOCK,
    Isolation.PLAIN: pb.ISOLATION_PLAIN,
}
_ISOLATION_BACK = {wire: level for level, wire in _ISOLATION.items()}


class MembershipClient:
    """Says Hello on a channel.

    Args:
        channel: To the peer, known or not.
        name: What a person calls the other side, for messages.
    """

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = rpc.MembershipServiceStub(channel)
        self._name = name

    async def hello(self, caller: PeerCard, within: float = 2.0) -> HelloAnswer:
        """Who answers and what it has. Raises a MeshError."""
        request = pb.HelloRequest(caller=card_to_wire(caller))
        with translated(self._name):
            response = await self._stub.Hello(request, timeout=within)
        return answer_from_wire(response)


def card_to_wire(card: PeerCard) -> pb.PeerCard:
    return pb.PeerCard(
        peer_id=card.peer_id,
        mesh_id=card.mesh_id,
        name=card.name,
        addresses=card.addresses,
        version=card.version,
        protocol=card.protocol,
        agent=card.agent,
        roster=card.roster,
    )


def card_from_wire(card: pb.PeerCard) -> PeerCard:
    """A card without what cannot be dialled. Raises Invalid if no peer could have sent it."""
    if not is_id(card.peer_id) or (card.mesh_id and not is_id(card.mesh_id)):
        raise Invalid("A peer's card names no peer.", f"{card.peer_id!r} of {card.mesh_id!r}")
    return PeerCard(
        peer_id=PeerId(card.peer_id),
        mesh_id=MeshId(card.mesh_id),
        name=_name(card.name) or card.peer_id[:8],
        addresses=tuple(map(Address, filter(_is_address, card.addresses[:MOST_ADDRESSES]))),
        version=_name(card.version),
        agent=card.agent,
        protocol=card.protocol,
        roster=_name(card.roster),
    )


def hint_to_wire(hint: PeerHint) -> pb.PeerHint:
    return pb.PeerHint(peer_id=hint.peer_id, addresses=hint.addresses[:MOST_ADDRESSES])


def hint_from_wire(hint: pb.PeerHint) -> PeerHint:
    """Raises Invalid if it names no peer."""
    if not is_id(hint.peer_id):
        raise Invalid("A hint names no peer.", repr(hint.peer_id))
    return PeerHint(PeerId(hint.peer_id), tuple(map(Address, hint.addresses[:MOST_ADDRESSES])))


def gpu_to_wire(gpu: Gpu) -> pb.Gpu:
    return pb.Gpu(
        uuid=gpu.uuid,
        name=gpu.name,
        memory_bytes=gpu.memory_bytes,
        free=gpu.free,
        simulated=gpu.simulated,
        holder=gpu.holder,
    )


def gpu_from_wire(gpu: pb.Gpu) -> Gpu:
    holder = _name(gpu.holder) or ("" if gpu.free else "somebody")
    return Gpu(gpu.uuid, _name(gpu.name), gpu.memory_bytes, gpu.simulated, holder)


def executor_to_wire(kind: ExecutorKind) -> pb.ExecutorKind.ValueType:
    return _EXECUTORS[kind]


def executor_from_wire(kind: pb.ExecutorKind.ValueType) -> ExecutorKind:
    """Raises Invalid for a kind that this software does not know."""
    known = _EXECUTORS_BACK.get(kind)
    if known is None:
        raise Invalid("A way to run jobs is not known here.", f"kind {kind}")
    return known


def isolation_to_wire(level: Isolation | None) -> pb.Isolation.ValueType:
    return _ISOLATION[level] if level is not None else pb.ISOLATION_UNSPECIFIED


def isolation_from_wire(inventory: pb.Inventory) -> dict[ExecutorKind, Isolation]:
    """What is not said, or said in a word that this software does not know, is left out."""
    said = {
        ExecutorKind.DOCKER: inventory.container_isolation,
        ExecutorKind.PROCESS: inventory.process_isolation,
    }
    return {kind: _ISOLATION_BACK[wire] for kind, wire in said.items() if wire in _ISOLATION_BACK}


def machine_to_wire(machine: Machine) -> pb.Inventory:
    return pb.Inventory(
        cpus=machine.cpus,
        memory_bytes=machine.memory_bytes,
        memory_free_bytes=machine.memory_free_bytes,
        disk_free_bytes=machine.disk_free_bytes,
        gpus=[gpu_to_wire(gpu) for gpu in machine.gpus],
        executors=sorted(map(executor_to_wire, machine.executors)),
        pythons=machine.pythons,
        container_isolation=isolation_to_wire(machine.isolation.get(ExecutorKind.DOCKER)),
        process_isolation=isolation_to_wire(machine.isolation.get(ExecutorKind.PROCESS)),
        interruptible=machine.interruptible,
    )


def machine_from_wire(inventory: pb.Inventory) -> Machine:
    """Kinds of executors that a newer peer has and this software does not know are left out."""
    kinds = {_EXECUTORS_BACK[kind] for kind in inventory.executors if kind in _EXECUTORS_BACK}
    return Machine(
        cpus=inventory.cpus,
        memory_bytes=inventory.memory_bytes,
        memory_free_bytes=inventory.memory_free_bytes,
        disk_free_bytes=inventory.disk_free_bytes,
        gpus=tuple(map(gpu_from_wire, inventory.gpus[:MOST_GPUS])),
        executors=frozenset(kinds),
        pythons=tuple(inventory.pythons),
        isolation=isolation_from_wire(inventory),
        interruptible=inventory.interruptible,
    )


def running_to_wire(running: RunningJob) -> pb.RunningJob:
    return pb.RunningJob(run_name=running.run_name, job=running.job, gpu_uuids=running.gpu_uuids)


def running_from_wire(running: pb.RunningJob) -> RunningJob:
    return RunningJob(RunName(_name(running.run_name)), running.job, tuple(running.gpu_uuids))


def load_to_wire(load: Load) -> pb.Load:
    return pb.Load(
        cpus=load.cpus,
        jobs=[
            pb.JobLoad(run_id=job.run_id, job=job.job, cpus=job.cpus, memory_bytes=job.memory_bytes)
            for job in load.jobs[:MOST_JOBS]
        ],
        cards=[
            pb.CardLoad(
                uuid=card.uuid, memory_bytes=card.memory_bytes, busy_percent=card.busy_percent
            )
            for card in load.cards[:MOST_GPUS]
        ],
    )


def load_from_wire(load: pb.Load) -> Load:
    """Numbers that no machine has are left out."""
    return Load(
        cpus=_cpus(load),
        jobs=tuple(
            JobLoad(RunId(job.run_id), job.job, _cpus(job), job.memory_bytes)
            for job in load.jobs[:MOST_JOBS]
        ),
        cards=tuple(
            CardLoad(
                card.uuid,
                card.memory_bytes,
                min(card.busy_percent, 100) if card.HasField("busy_percent") else None,
            )
            for card in load.cards[:MOST_GPUS]
        ),
    )


def _cpus(load: pb.Load | pb.JobLoad) -> float | None:
    return load.cpus if load.HasField("cpus") and 0 <= load.cpus <= MOST_CPUS else None


def answer_to_wire(answer: HelloAnswer) -> pb.HelloResponse:
    response = pb.HelloResponse(
        answerer=card_to_wire(answer.card),
        state=state_to_wire(answer.state),
        inventory=machine_to_wire(answer.machine),
        running=[running_to_wire(job) for job in answer.running],
        known=[hint_to_wire(hint) for hint in answer.known[:MOST_HINTS]],
    )
    if answer.now is not None:
        response.now.FromDatetime(answer.now)
    if answer.load is not None:
        response.load.CopyFrom(load_to_wire(answer.load))
    return response


def state_to_wire(state: AgentState) -> pb.AgentState.ValueType:
    return _STATES[state]


def state_from_wire(state: pb.AgentState.ValueType) -> AgentState:
    """A state that a newer peer invented reads as paused: nothing is sent there."""
    return _STATES_BACK.get(state, AgentState.PAUSED)


def answer_from_wire(response: pb.HelloResponse) -> HelloAnswer:
    """Raises Invalid."""
    return HelloAnswer(
        card=card_from_wire(response.answerer),
        state=state_from_wire(response.state),
        machine=machine_from_wire(response.inventory),
        running=tuple(map(running_from_wire, response.running)),
        known=tuple(_each(hint_from_wire, response.known[:MOST_HINTS])),
        now=_moment(response.now) if response.HasField("now") else None,
        load=load_from_wire(response.load) if response.HasField("load") else None,
    )


def _each(
    convert: Callable[[pb.PeerHint], PeerHint], hints: Iterable[pb.PeerHint]
) -> Iterable[PeerHint]:
    for hint in hints:
        try:
            yield convert(hint)
        except Invalid:
            continue


def _moment(wire: Timestamp) -> datetime:
    try:
        return wire.ToDatetime(UTC)
    except (ValueError, OverflowError) as broken:
        raise Invalid("A peer's clock shows no time that can be.", str(broken)) from broken


def _name(text: str) -> str:
    return printable(text, LONGEST_NAME)


def _is_address(text: str) -> bool:
    # It is written down with what a peer is awarded, and read again at every start.
    return 0 < len(text) <= LONGEST_ADDRESS and text.isprintable()
