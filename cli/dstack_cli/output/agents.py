"""Agents as a table and as JSON."""

from collections import Counter
from collections.abc import Sequence

from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Column, Table
from dstack_cli.output.words import memory
from dstack_mesh.machine import Gpu, Machine
from dstack_mesh.membership.known import KnownAgent

SCHEMA = "dstack.agents/v1"

COLUMNS = (
    Column("AGENT"),
    Column("ADDRESS", 3),
    Column("FOUND BY", 4),
    Column("STATUS"),
    Column("CPU", 2),
    Column("MEMORY", 2),
    Column("GPU", 1),
    Column("FREE", 0),
    Column("RUNNING", 1),
)


def agents_listing(agents: Sequence[KnownAgent], verbose: bool = False) -> Listing:
    """One line for each agent, those that answer first; `verbose` says how jobs are kept apart."""
    ordered = sorted(agents, key=lambda one: (one.state == "gone", one.card.name, one.card.peer_id))
    return Listing(
        schema=SCHEMA,
        items=[agent_item(agent) for agent in ordered],
        table=_with_isolation(ordered) if verbose else _table(ordered),
        names=[agent.card.name for agent in ordered],
        empty="No agent is in reach. To make this machine one: dstack-runner start",
    )


def _table(agents: Sequence[KnownAgent]) -> Table:
    return Table(COLUMNS, tuple(_row(agent) for agent in agents))


def _with_isolation(agents: Sequence[KnownAgent]) -> Table:
    return Table(
        (*COLUMNS, Column("ISOLATION", 1)),
        tuple((*_row(agent), _isolation_text(agent) or "-") for agent in agents),
    )


def _isolation_text(agent: KnownAgent) -> str:
    levels = _isolation(agent.answer.machine if agent.answer is not None else None)
    return "\n".join(f"{kind}: {level}" for kind, level in sorted(levels.items()))


def agent_item(agent: KnownAgent) -> dict[str, Json]:
    """An agent for scripts."""
    answer = agent.answer
    machine = answer.machine if answer is not None else None
    return {
        "agent": agent.card.name,
        "id": agent.card.peer_id,
        "addresses": list(agent.addresses),
        "found_by": agent.found_by,
        "state": agent.state,
        "local": agent.local,
        "version": agent.card.version,
        "cpus": machine.cpus if machine is not None else None,
        "memory_bytes": machine.memory_bytes if machine is not None else None,
        "memory_free_bytes": machine.memory_free_bytes if machine is not None else None,
        "disk_free_bytes": machine.disk_free_bytes if machine is not None else None,
        "gpus": [_gpu_item(gpu) for gpu in machine.gpus] if machine is not None else [],
        "running": _running(agent),
        "isolation": _isolation(machine),
    }


def gpus_text(gpus: Sequence[Gpu]) -> str:
    """Cards by model: "Tesla V100 16GiB x 2", a line each; declared ones are marked."""
    models = Counter((gpu.name, gpu.memory_bytes, gpu.simulated) for gpu in gpus)
    return "\n".join(
        f"{name} {memory(size_bytes)} x {many}" + (" (simulated)" if simulated else "")
        for (name, size_bytes, simulated), many in models.items()
    )


def _gpu_item(gpu: Gpu) -> dict[str, Json]:
    return {
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_bytes": gpu.memory_bytes,
        "free": gpu.free,
        "simulated": gpu.simulated,
        "holder": gpu.holder,
    }


def _isolation(machine: Machine | None) -> dict[str, Json]:
    """How jobs are kept from the machine, by the way they run."""
    if machine is None:
        return {}
    return {kind.value: level.value for kind, level in machine.isolation.items()}


def _running(agent: KnownAgent) -> list[str]:
    if agent.answer is None:
        return []
    return list(dict.fromkeys(job.run_name for job in agent.answer.running))


def _row(agent: KnownAgent) -> tuple[str, ...]:
    machine = agent.answer.machine if agent.answer is not None else None
    address = agent.addresses[0] if agent.addresses else ""
    start = (
        agent.card.name,
        "this machine" if agent.local else address,
        agent.found_by,
        agent.state,
    )
    if machine is None:
        return (*start, "", "", "", "", "")
    free = sum(gpu.free for gpu in machine.gpus)
    return (
        *start,
        str(machine.cpus),
        memory(machine.memory_bytes),
        gpus_text(machine.gpus) or "-",
        f"{free}/{len(machine.gpus)}" if machine.gpus else "-",
        "\n".join(_running(agent)) or "-",
    )
