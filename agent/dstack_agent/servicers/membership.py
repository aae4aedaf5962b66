"""Answers Hello: who this agent is, what it has, and whom it knows; and probes of other agents."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from dstack_mesh.card import PROTOCOL, HelloAnswer, PeerCard, PeerHint
from dstack_mesh.clock import Clock
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.machine import AgentState, Load, Machine, RunningJob
from dstack_mesh.membership.place import may_dial
from dstack_mesh.membership.vigil import Vigil
from dstack_mesh.v1 import membership_pb2 as pb
from dstack_mesh.v1 import membership_pb2_grpc as rpc
from dstack_mesh.wire.caller import Caller, Member, caller
from dstack_mesh.wire.membership import answer_to_wire, card_from_wire, hint_from_wire
from dstack_mesh.wire.rumours import (
    message_from_wire,
    message_to_wire,
    question_from_wire,
    reply_to_wire,
)


@frozen
class Answers:
    """Where the answer's parts come from, each as it is at the moment of the call.

    `machine` is called in a thread. `heard` is told of agents that call us: a seed that only they
    have works both ways. Outside a mesh there is no `vigil`.
    """

    card: Callable[[], PeerCard]
    state: Callable[[], AgentState]
    machine: Callable[[], Machine]
    running: Callable[[], Sequence[RunningJob]]
    known: Callable[[], Sequence[PeerHint]]
    heard: Callable[[PeerHint], None]
    vigil: Vigil | None = None
    load: Callable[[], Load | None] = lambda: None


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
        calling = card_from_wire(request.caller)
        _check(calling, who, card)
        if isinstance(who, Member) and calling.agent:
            told = tuple(filter(may_dial, calling.addresses))
            self._answers.heard(PeerHint(who.peer_id, told))
        # The machine with its holders is read from the ledger, which may be writing.
        machine = await asyncio.to_thread(self._answers.machine)
        return answer_to_wire(self._answer(card, machine))

    async def Probe(
        self,
        request: pb.ProbeRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> pb.ProbeResponse:
        vigil, sender = self._vigil(), _member(context)
        message = message_from_wire(request, sender)
        self._answers.heard(PeerHint(sender, message.word.addresses))
        word, rumours = message_to_wire(vigil.probed(message))
        return pb.ProbeResponse(word=word, rumours=rumours)

    async def ProbeFor(
        self,
        request: pb.ProbeForRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> pb.ProbeForResponse:
        vigil, target = self._vigil(), hint_from_wire(request.target)
        _member(context)
        within = request.within.ToMilliseconds() / 1000
        reached = await vigil.probe_for(target.peer_id, target.addresses, within)
        return pb.ProbeForResponse(reach=pb.REACH_ANSWERED if reached else pb.REACH_SILENT)

    async def Compare(
        self,
        request: pb.CompareRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> pb.CompareResponse:
        vigil, sender = self._vigil(), _member(context)
        return reply_to_wire(vigil.compared(question_from_wire(request, sender)))

    def _vigil(self) -> Vigil:
        if self._answers.vigil is None:
            raise Refused("This agent is in no mesh, so it keeps watch over nobody.")
        return self._answers.vigil

    def _answer(self, card: PeerCard, machine: Machine) -> HelloAnswer:
        return HelloAnswer(
            card=card,
            state=self._answers.state(),
            machine=machine,
            running=tuple(self._answers.running()),
            known=tuple(self._answers.known()),
            now=self._clock.now(),
            load=self._answers.load(),
        )


def _member(context: "grpc.aio.ServicerContext[Any, Any]") -> PeerId:
    who = caller(context)
    if not isinstance(who, Member):
        raise Refused("Agents of a mesh probe each other over TLS only.")
    return who.peer_id


def _check(calling: PeerCard, who: Caller, card: PeerCard) -> None:
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
