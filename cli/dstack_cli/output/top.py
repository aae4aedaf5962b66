"""The mesh at a moment: agents and the jobs that run on them, as a screen, as text and as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from dstack_cli.output.agents import agent_item
from dstack_cli.output.port import Document, Json
from dstack_cli.output.table import Column, Table, draw
from dstack_cli.output.words import ago, count, duration, memory, rfc3339, used_memory
from dstack_cli.picture import RunPicture
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.machine import JobLoad, Load
from dstack_mesh.membership.known import KnownAgent
from dstack_scheduler.job import JobRecord, JobState

SCHEMA = "dstack.top/v1"

UNKNOWN = "-"

LEAST_JOB_LINES = 5
"""So many lines jobs have on a screen that is too small for all agents."""

GOES_ON = frozenset(
    {
        *(JobState.PREPARING, JobState.RUNNING, JobState.SAVING),
        *(JobState.STOPPING, JobState.ABORTING),
    }
)

SAID_BY_DRIVERS = (Column("GPU MEMORY", 3), Column("GPU BUSY", 3))
AGENT_COLUMNS = (
    Column("AGENT"),
    Column("STATE"),
    Column("CPU", 1),
    Column("MEMORY", 1),
    Column("GPU", 1),
    *SAID_BY_DRIVERS,
    Column("JOBS", 2),
)
JOB_COLUMNS = (
    Column("RUN"),
    Column("JOB", 4),
    Column("WORKFLOW", 2),
    Column("OWNER", 5),
    Column("AGENT", 1),
    Column("STATUS"),
    Column("FOR"),
    Column("CPU", 1),
    Column("MEMORY", 1),
    Column("GPU", 3),
)


@frozen
class Seen:
    """What was seen at a moment.

    Attributes:
        mesh: Its name; empty outside one.
        agents: Those that answer first, each with what it said.
        heard: When those that do not answer were last heard, as far as anybody knows.
    """

    at: datetime
    mesh: str
    agents: Sequence[KnownAgent]
    heard: Mapping[PeerId, datetime]
    pictures: Sequence[RunPicture]


def summary(seen: Seen) -> str:
    """The first line."""
    machines = [one.answer.machine for one in seen.agents if _answers(one, seen) and one.answer]
    cards = [gpu for machine in machines for gpu in machine.gpus]
    used = sum(not gpu.free for gpu in cards)
    jobs = len(list(_jobs(seen)))
    waiting = sum(one.heard and one.status is JobState.WAITING for one in seen.pictures)
    parts = [seen.mesh] if seen.mesh else []
    parts.append(count(len(machines), "agent"))
    parts += [f"{count(len(cards), 'GPU')}, {used} in use"] if cards else []
    parts.append(f"{count(jobs, 'job')} running")
    parts += [f"{count(waiting, 'run')} waiting"] if waiting else []
    return " · ".join(parts)


def agents_table(seen: Seen) -> Table:
    """A line for each agent; what no driver says has no column."""
    rows = [_agent_row(one, seen) for one in seen.agents]
    known = [
        place
        for place, column in enumerate(AGENT_COLUMNS)
        if column not in SAID_BY_DRIVERS or any(row[place] != UNKNOWN for row in rows)
    ]
    return Table(
        tuple(AGENT_COLUMNS[place] for place in known),
        tuple(tuple(row[place] for place in known) for row in rows),
    )


def jobs_table(seen: Seen) -> Table:
    """A line for each job that has an agent and has not ended; "?" after what may be old."""
    return Table(JOB_COLUMNS, tuple(_job_row(run, job, seen) for run, job in _jobs(seen)))


def top_document(seen: Seen, width: int | None) -> Document:
    """Both tables, once."""
    fields: dict[str, Json] = {
        "schema": SCHEMA,
        "at": rfc3339(seen.at),
        "agents": [_agent_item(one, seen) for one in seen.agents],
        "jobs": [_job_item(run, job, seen) for run, job in _jobs(seen)],
    }
    lines = [summary(seen), "", *draw(agents_table(seen), width)]
    lines += ["", *draw(jobs_table(seen), width)] if any(_jobs(seen)) else []
    return Document(fields, "\n".join(lines))


def screen_lines(seen: Seen, width: int, height: int, foot: str = "") -> list[str]:
    """The same for a screen of this size: nothing is wider, and what is cut away is counted."""
    clock = f"{seen.at.astimezone():%H:%M:%S}"
    first = summary(seen)[: max(0, width - len(clock) - 2)]
    head = [f"{first}{clock:>{max(len(clock), width - len(first))}}", ""]
    agents = draw(agents_table(seen), width)
    jobs = draw(jobs_table(seen), width)
    room = height - len(head) - 1 - bool(foot)
    for_jobs = min(len(jobs), max(LEAST_JOB_LINES, room - len(agents)))
    lines = [*head, *_cut(agents, room - for_jobs), "", *_cut(jobs, for_jobs)]
    if foot:
        lines += [""] * (height - 1 - len(lines))
        lines = [*lines[: height - 1], foot]
    return [line[:width] for line in lines[:height]]


def _cut(lines: Sequence[str], most: int) -> list[str]:
    if len(lines) <= most:
        return list(lines)
    return [*lines[: max(0, most - 1)], f"… {len(lines) - max(0, most - 1)} more"]


def _answers(agent: KnownAgent, seen: Seen) -> bool:
    return agent.answer is not None and agent.card.peer_id not in seen.heard


def _load(agent: KnownAgent, seen: Seen) -> Load | None:
    return agent.answer.load if agent.answer is not None and _answers(agent, seen) else None


def _agent_row(agent: KnownAgent, seen: Seen) -> tuple[str, ...]:
    heard = seen.heard.get(agent.card.peer_id)
    state = agent.state if heard is None else f"{agent.state} ({ago(heard, seen.at)})"
    machine = agent.answer.machine if agent.answer is not None else None
    if machine is None or not _answers(agent, seen):
        return (agent.card.name, state, *[UNKNOWN] * 6)
    load = _load(agent, seen) or Load()
    total, used = machine.memory_bytes, machine.memory_bytes - machine.memory_free_bytes
    cards = {card.uuid: card for card in load.cards}
    known = [gpu for gpu in machine.gpus if gpu.uuid in cards]
    busy = [percent for gpu in known if (percent := cards[gpu.uuid].busy_percent) is not None]
    held = sum(cards[gpu.uuid].memory_bytes for gpu in known)
    return (
        agent.card.name,
        state,
        f"{_cpus(load.cpus)}/{machine.cpus}",
        _of(used, total),
        f"{sum(not gpu.free for gpu in machine.gpus)}/{len(machine.gpus)}"
        if machine.gpus
        else UNKNOWN,
        _of(held, sum(gpu.memory_bytes for gpu in known)) if known else UNKNOWN,
        f"{round(sum(busy) / len(busy))}%" if busy else UNKNOWN,
        str(len(agent.answer.running)) if agent.answer is not None else UNKNOWN,
    )


def _agent_item(agent: KnownAgent, seen: Seen) -> dict[str, Json]:
    load = _load(agent, seen)
    cards = {card.uuid: card for card in load.cards} if load is not None else {}
    item = agent_item(agent, seen.heard.get(agent.card.peer_id))
    machine = agent.answer.machine if agent.answer is not None else None
    return {
        **item,
        "cpus_used": load.cpus if load is not None else None,
        "cards": [
            {
                "uuid": gpu.uuid,
                "memory_used_bytes": cards[gpu.uuid].memory_bytes if gpu.uuid in cards else None,
                "busy_percent": cards[gpu.uuid].busy_percent if gpu.uuid in cards else None,
            }
            for gpu in (machine.gpus if machine is not None else ())
        ],
    }


def _jobs(seen: Seen) -> Iterable[tuple[RunPicture, JobRecord]]:
    """Jobs that go on, of the newest run first; of an agent that is away, as far as it said."""
    for picture in seen.pictures:
        for job in picture.record.jobs:
            if picture.heard and job.state.state in GOES_ON:
                yield picture, job


def _is_stale(picture: RunPicture, job: JobRecord) -> bool:
    return picture.away_of(job.agent_id) is not None


def _job_load(run_id: RunId, job: JobRecord, seen: Seen) -> JobLoad | None:
    """What its agent says that it uses."""
    agent = next((one for one in seen.agents if one.card.peer_id == job.agent_id), None)
    load = _load(agent, seen) if agent is not None else None
    jobs = load.jobs if load is not None else ()
    return next((one for one in jobs if (one.run_id, one.job) == (run_id, job.key.job)), None)


def _job_row(picture: RunPicture, job: JobRecord, seen: Seen) -> tuple[str, ...]:
    record, load = picture.record, _job_load(picture.record.run_id, job, seen)
    return (
        record.run_name,
        str(job.key.job),
        job.workflow or job.provider,
        record.owner,
        job.agent_name or UNKNOWN,
        job.state.state.value + ("?" if _is_stale(picture, job) else ""),
        _since(job.state.at, seen.at),
        _cpus(load.cpus) if load is not None else UNKNOWN,
        used_memory(load.memory_bytes) if load is not None else UNKNOWN,
        str(len(job.gpu_uuids) or UNKNOWN),
    )


def _job_item(picture: RunPicture, job: JobRecord, seen: Seen) -> dict[str, Json]:
    record, load = picture.record, _job_load(picture.record.run_id, job, seen)
    return {
        "run": record.run_name,
        "id": record.run_id,
        "job": job.key.job,
        "workflow": job.workflow,
        "provider": job.provider,
        "owner": record.owner,
        "agent": job.agent_name or None,
        "status": job.state.state.value,
        "stale": _is_stale(picture, job),
        "since": rfc3339(job.state.at),
        "cpus_used": load.cpus if load is not None else None,
        "memory_used_bytes": load.memory_bytes if load is not None else None,
        "gpus": list(job.gpu_uuids),
    }


def _since(then: datetime, now: datetime) -> str:
    """In whole seconds: tenths would only flicker."""
    seconds = max(0, int((now - then).total_seconds()))
    return f"{seconds}s" if seconds < 60 else duration(seconds)


def _cpus(used: float | None) -> str:
    return UNKNOWN if used is None else f"{used:.1f}"


def _of(used: int, total: int) -> str:
    """As "3.1/24GiB"."""
    return f"{memory(max(0, used)).removesuffix('GiB')}/{memory(total)}"
