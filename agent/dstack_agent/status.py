"""What the agent of a home says of itself, asked over its own socket."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from dstack_agent.owner.desk import Holding, Rules
from dstack_agent.owner.policy_file import InForce
from dstack_agent.owner.words import holding_shape, holding_told
from dstack_agent.wire.owner import OwnerClient
from dstack_mesh.card import HelloAnswer
from dstack_mesh.discovery.twins import HINT, read_twins, sentence
from dstack_mesh.faults import Refused, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.machine import Gpu
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import command_card
from dstack_mesh.wire.membership import MembershipClient
from dstack_scheduler.policy import Policy

ANSWER_SECONDS = 5.0

T = TypeVar("T")


@frozen
class Status:
    """What an agent is, has and runs, and what its owner said."""

    answer: HelloAnswer
    holding: Holding
    rules: Rules


def read_status(home: Home) -> Status:
    """Of the agent of a home. Raises Unreachable if none serves."""

    async def ask(channels: Channels) -> Status:
        channel = channels.to_local(home.agent_socket)
        client = MembershipClient(channel, "The agent of this home")
        answer = await client.hello(command_card(home), within=ANSWER_SECONDS)
        try:
            return Status(answer, *await OwnerClient(channel).show(Policy()))
        except Refused as error:
            if error.code != "too-old":
                raise
            # The agent was started before the software was updated.
            holding = Holding(answer.state, jobs=len(answer.running))
            return Status(answer, holding, Rules(home.policy, InForce(Policy())))

    return _asking(home, ask)


def order(home: Home, say: Callable[[OwnerClient], Awaitable[T]]) -> T:
    """Says something to the agent of a home as its owner. Raises Unreachable if none serves."""

    async def ask(channels: Channels) -> T:
        return await say(OwnerClient(channels.to_local(home.agent_socket)))

    return _asking(home, ask)


def _asking(home: Home, ask: Callable[[Channels], Awaitable[T]]) -> T:
    if not home.agent_socket.exists():
        raise Unreachable(
            "No agent serves this home.",
            f"There is no {home.agent_socket}.",
            "dstack-runner start",
            "not-running",
        )

    async def whole() -> T:
        channels = Channels(home)
        try:
            return await ask(channels)
        finally:
            await channels.close()

    return asyncio.run(whole())


def problems(home: Home) -> list[str]:
    """What the agent of a home noticed lately and cannot mend."""
    return [sentence(twin) for twin in read_twins(home, datetime.now(UTC))]


def shape(status: Status, troubles: Sequence[str] = ()) -> dict[str, object]:
    """The JSON of `dstack-runner status`."""
    answer, machine = status.answer, status.answer.machine
    return {
        "schema": "dstack.runner/v1",
        "ready": True,
        "agent": answer.card.name,
        "id": answer.card.peer_id,
        "mesh": answer.card.mesh_id or None,
        **holding_shape(status.holding),
        "policy_problem": status.rules.in_force.problem,
        "addresses": list(answer.card.addresses),
        "version": answer.card.version,
        "peers": [{"id": hint.peer_id, "addresses": list(hint.addresses)} for hint in answer.known],
        "jobs": [
            {"run": job.run_name, "job": job.job, "gpus": list(job.gpu_uuids)}
            for job in answer.running
        ],
        "cpus": machine.cpus,
        "memory_bytes": machine.memory_bytes,
        "disk_free_bytes": machine.disk_free_bytes,
        "gpus": [gpu_shape(gpu) for gpu in machine.gpus],
        "executors": sorted(kind.value for kind in machine.executors),
        "pythons": list(machine.pythons),
        "problems": list(troubles),
    }


def gpu_shape(gpu: Gpu) -> dict[str, object]:
    """A card in JSON."""
    return {
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_bytes": gpu.memory_bytes,
        "free": gpu.free,
        "simulated": gpu.simulated,
        "holder": gpu.holder,
    }


def told(status: Status, troubles: Sequence[str] = (), now: datetime | None = None) -> str:
    """The same for people."""
    answer = status.answer
    where = ", ".join(answer.card.addresses)
    reached = f"reached at {where}" if where else "reached from this machine only"
    lines = [
        f"{answer.card.name} ({answer.card.peer_id}) is {answer.state.value}; {reached}",
        f"lent:  {holding_told(status.holding, now or datetime.now(UTC))}",
        f"peers: {len(answer.known)}",
        f"jobs:  {', '.join(f'{job.run_name}.{job.job}' for job in answer.running) or 'none'}",
        *(gpu_line(gpu) for gpu in answer.machine.gpus),
        *(f"problem: {each}\n  fix: {HINT}" for each in troubles),
    ]
    if status.rules.in_force.problem:
        lines.append(f"policy: broken, the one of before holds: {status.rules.in_force.problem}")
    return "\n".join(lines)


def gpu_line(gpu: Gpu) -> str:
    """A card on one line."""
    declared = " (declared, not real)" if gpu.simulated else ""
    memory = gpu.memory_bytes / 2**30
    return f"gpu:   {gpu.name} {memory:.0f} GiB{declared}: {gpu.holder or 'free'}"
