"""Says why a run waits or how it ended: what each agent answers, and what change would help."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from dstack_cli.orders import ordered
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document, Json
from dstack_cli.output.table import Column, Table, draw
from dstack_cli.output.words import duration
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Private, Reach, carry_out, chosen_run, reaching
from dstack_cli.watching import how_it_ended
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_scheduler.agent_port import Agent, DrivenJob, Question, question_of
from dstack_scheduler.easing import MOST_ROUNDS, Eased, eased
from dstack_scheduler.job import JobRecord, JobState
from dstack_scheduler.opinions import Opinion, opinion
from dstack_scheduler.refusal import reasons_of
from dstack_scheduler.verdict import Bid, Later, Now, Verdict

SCHEMA = "dstack.explanation/v1"


@frozen
class Said:
    """What an agent says to a job.

    Attributes:
        change: Flags with which it would take it now or later; None where no flag helps.
    """

    opinion: Opinion
    change: tuple[str, ...] | None = None

    @property
    def agent(self) -> str:
        return self.opinion.card.name

    @property
    def when(self) -> str:
        return self.opinion.when


@frozen
class Told:
    """A job, how it stands, and for one that waits what agents say to it."""

    index: int
    name: str
    state: str
    why: str
    said: tuple[Said, ...] = ()

    @property
    def change(self) -> tuple[Said, tuple[str, ...]] | None:
        """The smallest change that would let an agent take it; None if one can, or none helps."""
        if any(one.when in ("now", "later") for one in self.said):
            return None
        found = [(one, one.change) for one in self.said if one.change]
        return min(found, key=lambda pair: (len(pair[1]), pair[0].agent), default=None)


def explain(home: Home, run: str, as_json: bool) -> int:
    """Explains a run; returns the exit code."""

    async def look() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            picture = chosen_run(run, await reach.runs())
            told = await _jobs(reach, picture)
        output = chosen(as_json)
        output.document(_document(picture, told))
        return 0

    return carry_out(look())


async def _jobs(reach: Reach, picture: RunPicture) -> list[Told]:
    made = ordered(reach.home, picture.record.run_id)
    known = {job.key.job: job for job in picture.record.jobs}
    agents = await reach.answering()
    told: list[Told] = []
    for index in range(max(picture.record.job_count, len(known))):
        job = made.jobs[index] if made is not None and index < len(made.jobs) else None
        told.append(await _job(index, known.get(index), job, known, agents))
    return told


async def _job(
    index: int,
    known: JobRecord | None,
    job: DrivenJob | None,
    others: dict[int, JobRecord],
    agents: Sequence[Agent],
) -> Told:
    name = known.workflow or known.provider if known is not None else ""
    if job is not None:
        name = job.spec.workflow or job.spec.provider
    if known is not None and known.state.state not in (JobState.SUBMITTED, JobState.WAITING):
        return Told(index, name, known.state.state.value, _stands(known))
    if job is None:
        why = "what it needs is known in the home that submitted it"
        return Told(index, name, JobState.WAITING.value, why)
    before = [one for one in job.after if not _is_done(others.get(one))]
    if before:
        jobs = ", ".join(f"job {one}" for one in before)
        return Told(index, name, JobState.WAITING.value, f"it comes after {jobs}")
    question = question_of(job.spec)
    said = await asyncio.gather(*(_ask(agent, question) for agent in agents))
    why = "" if said else "no agent is in reach"
    sorted_out = tuple(sorted(said, key=lambda one: one.agent))
    return Told(index, name, JobState.WAITING.value, why, sorted_out)


def _is_done(job: JobRecord | None) -> bool:
    return job is not None and job.state.state is JobState.DONE


def _stands(job: JobRecord) -> str:
    where = f"on {job.agent_name}" if job.agent_name else ""
    if job.state.state.ended:
        ended = how_it_ended(job.state).partition(", ")[2]
        return ", ".join(part for part in (where, ended) if part)
    return f"{where}: {job.state.cause}" if job.state.cause else where


async def _ask(agent: Agent, question: Question) -> Said:
    told = await opinion(agent, question)
    if not isinstance(told.said, Bid):
        return Said(told)
    try:
        return Said(told, await _change(agent, question, told.said.verdict))
    except MeshError:
        return Said(told)


async def _change(agent: Agent, question: Question, verdict: Verdict) -> tuple[str, ...] | None:
    """The flags with which the agent itself says that it would take the job."""
    tried = Eased(question.needs)
    for _ in range(MOST_ROUNDS):
        if isinstance(verdict, (Now, Later)):
            return tried.flags or None
        after = eased(tried, reasons_of(verdict))
        if after is None:
            return None
        tried = after
        verdict = (await agent.ask(replace(question, needs=tried.needs))).verdict
    return None


def _document(picture: RunPicture, told: Sequence[Told]) -> Document:
    record = picture.record
    fields: dict[str, Json] = {
        "schema": SCHEMA,
        "run": record.run_name,
        "status": picture.status.value,
        "jobs": [_item(one) for one in told],
    }
    return Document(fields, _text(picture, told), record.run_name)


def _item(told: Told) -> dict[str, Json]:
    change = told.change
    return {
        "job": told.index,
        "workflow": told.name,
        "status": told.state,
        "why": told.why,
        "agents": [
            {
                "agent": one.agent,
                "verdict": one.when,
                "reasons": [
                    {"code": each.code, "message": each.message, "hint": each.hint}
                    for each in one.opinion.reasons
                ],
                "wait_seconds": one.opinion.wait_seconds,
                "change": list(one.change) if one.change else None,
            }
            for one in told.said
        ],
        "change": {"agent": change[0].agent, "flags": list(change[1])} if change else None,
    }


def _text(picture: RunPicture, told: Sequence[Told]) -> str:
    record = picture.record
    lines = [f"{record.run_name} is {picture.status.value}."]
    for one in told:
        why = f": {one.why}" if one.why else ""
        lines.append(f"  job {one.index} {one.name} {one.state}{why}".rstrip())
        if one.said:
            rows = tuple((each.agent, _when(each), _because(each)) for each in one.said)
            table = Table((Column("AGENT"), Column("WHEN"), Column("WHY")), rows)
            lines += [f"    {line}" for line in draw(table, None)]
        lines += [f"    {line}" for line in _change_lines(one, record.target)]
    return "\n".join(lines)


def _when(said: Said) -> str:
    wait = said.opinion.wait_seconds
    return said.when if wait is None else f"{said.when}, in {duration(wait)}"


def _because(said: Said) -> str:
    return "; ".join(reason.message for reason in said.opinion.reasons)


def _change_lines(told: Told, target: str) -> list[str]:
    change = told.change
    if change is not None:
        said, flags = change
        return [f"{said.agent} would take: dstack run {target} {' '.join(flags)}"]
    if any(one.when == "now" for one in told.said):
        return ["an agent can take it now; its driver asks again in a moment"]
    if told.said and not any(one.when == "later" for one in told.said):
        return ["no flag changes that; see who else is there: dstack agents"]
    return []
