"""Agents as a table and as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Column, Table
from dstack_cli.output.words import ago, memory, rfc3339
from dstack_mesh.ids import PeerId
from dstack_mesh.machine import Gpu, Machine
from dstack_mesh.membership.known import KnownAgent
from dstack_scheduler.agent_port import Advert

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


def agents_listing(
    agents: Sequence[KnownAgent],
    adverts: Mapping[PeerId, Advert],
    now: datetime,
    verbose: bool = False,
) -> Listing:
    """One line for each agent, those that answer first; of others what they last said.

    Args:
        verbose: Says how jobs are kept apart.
    """
    ordered, heard = in_order(agents, adverts)
    rows = [_row(agent, heard.get(agent.card.peer_id), now) for agent in ordered]
    return Listing(
        schema=SCHEMA,
        items=[agent_item(agent, heard.get(agent.card.peer_id)) for agent in ordered],
        table=_with_isolation(ordered, rows) if verbose else Table(COLUMNS, tuple(rows)),
        names=[agent.card.name for agent in ordered],
        empty="No agent is in reach. To make this machine one: dstack-runner start",
    )


def in_order(
    agents: Sequence[KnownAgent], adverts: Mapping[PeerId, Advert]
) -> tuple[list[KnownAgent], dict[PeerId, datetime]]:
    """All agents, those that are gone last, and when those that do not answer were last heard."""
    answering = {one.card.peer_id for one in agents if one.answer is not None}
    silent = {one.card.peer_id: one for one in agents if one.answer is None}
    silent |= {peer: _last_known(advert, silent.get(peer)) for peer, advert in adverts.items()}
    shown = [one for one in agents if one.answer is not None]
    shown += [one for peer, one in silent.items() if peer not in answering]
    ordered = sorted(shown, key=lambda one: (one.state == "gone", one.card.name, one.card.peer_id))
    heard = {peer: one.heard_at for peer, one in adverts.items() if peer not in answering}
    return ordered, heard


def _with_isolation(agents: Sequence[KnownAgent], rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(
        (*COLUMNS, Column("ISOLATION", 1)),
        tuple(
            (*row, _isolation_text(agent) or "-") for agent, row in zip(agents, rows, strict=True)
        ),
    )


def _isolation_text(agent: KnownAgent) -> str:
    levels = _isolation(agent.answer.machine if agent.answer is not None else None)
    return "\n".join(f"{kind}: {level}" for kind, level in sorted(levels.items()))


def _last_known(advert: Advert, found: KnownAgent | None) -> KnownAgent:
    """An agent that did not answer us: suspect while others hear it, else gone."""
    card = advert.said.card
    addresses = found.addresses if found is not None else card.addresses
    found_by = found.found_by if found is not None else "peer"
    state = "suspect" if advert.answers else "gone"
    return KnownAgent(card, addresses, found_by, state, advert.said)


def agent_item(agent: KnownAgent, heard_at: datetime | None = None) -> dict[str, Json]:
    """An agent for scripts. `heard_at` is when one that does not answer was last heard."""
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
        "gpus": [gpu_item(gpu) for gpu in machine.gpus] if machine is not None else [],
        "running": _running(agent),
        "isolation": _isolation(machine),
        "heard_at": rfc3339(heard_at) if heard_at is not None else None,
        "stale": heard_at is not None,
    }


def gpus_text(gpus: Sequence[Gpu]) -> str:
    """Cards by model: "Tesla V100 16GiB x 2", a line each; declared ones are marked."""
    models = Counter((gpu.name, gpu.memory_bytes, gpu.simulated) for gpu in gpus)
    return "\n".join(
        f"{name} {memory(size_bytes)} x {many}" + (" (simulated)" if simulated else "")
        for (name, size_bytes, simulated), many in models.items()
    )


def gpu_item(gpu: Gpu) -> dict[str, Json]:
    """A card for scripts."""
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


def _row(agent: KnownAgent, heard_at: datetime | None, now: datetime) -> tuple[str, ...]:
    machine = agent.answer.machine if agent.answer is not None else None
    address = agent.addresses[0] if agent.addresses else ""
    start = (
        agent.card.name,
        "this machine" if agent.local else address,
        agent.found_by,
        agent.state if heard_at is None else f"{agent.state} (last heard {ago(heard_at, now)})",
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
