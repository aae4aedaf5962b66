"""Answers Hello: who this agent is, what it has, and whom it knows."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from dstack_mesh.card import PROTOCOL, HelloAnswer, PeerCard, PeerHint
from dstack_mesh.clock import Clock
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address
from dstack_mesh.machine import AgentState, Machine, RunningJob
from dstack_mesh.v1 import membership_pb2 as pb
from dstack_mesh.v1 import membership_pb2_grpc as rpc
from dstack_mesh.wire.caller import Caller, Member, caller
from dstack_mesh.wire.membership import answer_to_wire


@frozen
class Answers:
    """Where the answer's parts come from, each as it is at the moment of the call.

    `machine` is called in a thread. `heard` is told of agents that call us: a seed that only they
    have works both ways.
    """

    card: Callable[[], PeerCard]
    state: Callable[[], AgentState]
    machine: Callable[[], Machine]
    running: Callable[[], Sequence[RunningJob]]
    known: Callable[[], Sequence[PeerHint]]
    heard: Callable[[PeerHint], None]


class MembershipServicer(rpc.MembershipServiceServicer):
    """MembershipService of an agent."""

    def __init__(self, answers: Answers, clock: Clock) -> None:
        self._answers = answers
        self._clock = clock

    async def Hello(
        self,
        request: pb.HelloRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> pb.HelloResponse:
        card = self._answers.card()
        who = caller(context)
        _check(request.caller, who, card)
        if isinstance(who, Member) and request.caller.agent:
            addresses = tuple(map(Address, request.caller.addresses))
            self._answers.heard(PeerHint(who.peer_id, addresses))
        # The machine with its holders is read from the ledger, which may be writing.
        machine = await asyncio.to_thread(self._answers.machine)
        return answer_to_wire(self._answer(card, machine))

    def _answer(self, card: PeerCard, machine: Machine) -> HelloAnswer:
        return HelloAnswer(
            card=card,
            state=self._answers.state(),
            machine=machine,
            running=tuple(self._answers.running()),
            known=tuple(self._answers.known()),
            now=self._clock.now(),
        )


def _check(calling: pb.PeerCard, who: Caller, card: PeerCard) -> None:
    if isinstance(who, Member) and calling.mesh_id != card.mesh_id:
        raise Refused(
            "The meshes differ.",
            f"The caller is of {calling.mesh_id!r}, this agent of {card.mesh_id!r}.",
            code="other-mesh",
        )
    if calling.protocol < 1:
        raise Refused(
            "The protocols do not overlap.",
            f"The caller speaks {calling.protocol}, this agent 1 to {PROTOCOL}.",
            "Update the older software.",
            code="protocol",
        )
