"""What the owner says to her agent, as messages and back, and a client for her commands."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from dstack_agent.owner.desk import Holding, Rules
from dstack_agent.owner.policy_file import InForce
from dstack_mesh.machine import AgentState
from dstack_mesh.v1 import membership_pb2
from dstack_mesh.v1 import owner_pb2 as pb
from dstack_mesh.v1 import owner_pb2_grpc as rpc
from dstack_mesh.wire.errors import translated
from dstack_scheduler.policy import Policy
from dstack_scheduler.wire.fields import instant_from_wire

ANSWER_SECONDS = 5.0

_STATES = {
    AgentState.ALIVE: membership_pb2.AGENT_STATE_ALIVE,
    AgentState.DRAINING: membership_pb2.AGENT_STATE_DRAINING,
    AgentState.PAUSED: membership_pb2.AGENT_STATE_PAUSED,
}
_STATES_BACK = {wire: state for state, wire in _STATES.items()}

T = TypeVar("T")


class OwnerClient:
    """The agent of the owner's home, on a channel to its Unix socket."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rpc.OwnerServiceStub(channel)

    async def pause(self, until: datetime | None, now: bool) -> tuple[Holding, int]:
        """Takes the machine back; how many borrowers were asked to go."""
        request = pb.PauseRequest(until=_moment_to_wire(until), now=now)
        answer = await self._call(self._stub.Pause, request)
        return holding_from_wire(answer.holding), answer.asked

    async def resume(self) -> Holding:
        """Lends it again."""
        return holding_from_wire((await self._call(self._stub.Resume, pb.ResumeRequest())).holding)

    async def drain(self) -> Holding:
        """Lets it run empty."""
        return holding_from_wire((await self._call(self._stub.Drain, pb.DrainRequest())).holding)

    async def show(self, start: Policy) -> tuple[Holding, Rules]:
        """What holds now. `start` is what holds where the file says nothing."""
        answer = await self._call(self._stub.Show, pb.ShowRequest())
        return holding_from_wire(answer.holding), rules_from_wire(answer.policy, start)

    async def _call(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        with translated("The agent of this home"):
            return await method(request, timeout=ANSWER_SECONDS)


def holding_to_wire(holding: Holding) -> pb.Holding:
    return pb.Holding(
        state=_STATES[holding.state],
        until=_moment_to_wire(holding.until),
        jobs=holding.jobs,
        borrowed=holding.borrowed,
    )


def holding_from_wire(wire: pb.Holding) -> Holding:
    until = instant_from_wire(wire.until) if wire.HasField("until") else None
    state = _STATES_BACK.get(wire.state, AgentState.PAUSED)
    return Holding(state, until, wire.jobs, wire.borrowed)


def rules_to_wire(rules: Rules) -> pb.PolicyFile:
    return pb.PolicyFile(
        path=str(rules.path), text=rules.in_force.text, problem=rules.in_force.problem
    )


def rules_from_wire(wire: pb.PolicyFile, start: Policy) -> Rules:
    """What the agent made of the file, read by the same rules. Raises Invalid."""
    # Only a command reads it, and agents need no parser for it.
    from dstack_agent.owner.policy_text import parse_policy

    path = Path(wire.path)
    policy = parse_policy(path, wire.text.encode(), start) if wire.text else start
    return Rules(path, InForce(policy, wire.text, wire.problem))


def until_of(request: pb.PauseRequest) -> datetime | None:
    """When the pause that is asked for ends. Raises Invalid."""
    return instant_from_wire(request.until) if request.HasField("until") else None


def _moment_to_wire(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    wire = Timestamp()
    wire.FromDatetime(moment.astimezone(UTC))
    return wire
