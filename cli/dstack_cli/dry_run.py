"""`dstack run … --dry-run`: what would run, and what each agent says to it. Nothing is started."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from dstack_cli.here import repo_of
from dstack_cli.naming import owner
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document, Json
from dstack_cli.output.table import Column, Table, draw
from dstack_cli.output.words import memory
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_cli.run_words import Asked
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.agent_port import Agent, Listing, Question, outside
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import Plan, PlannedJob, Reuse
from dstack_scheduler.refusal import reasons_of, refusal
from dstack_scheduler.resolve import resolve
from dstack_scheduler.verdict import Later, Never, NotNow, Now, Verdict

SCHEMA = "dstack.plan/v1"

WORDS: dict[type[Verdict], str] = {Now: "now", Later: "later", NotNow: "not-now", Never: "never"}


@frozen
class Opinion:
    """What an agent says to the first job."""

    agent: str
    verdict: str
    reason: str


def show_plan(home: Home, plan: Plan, asked: Asked, run_id: RunId, run_name: RunName) -> int:
    """Shows a plan; returns the exit code."""

    repo = repo_of(Path.cwd()) if any(job.reuses for job in plan.jobs) else ""

    async def look() -> int:
        private = Private.NEVER if asked.placement == "remote" else Private.ALWAYS
        async with reaching(home, private) as reach:
            listings = [listing for _, listing in await reach.listings()]
            opinions = await _opinions(reach, plan.jobs[0], run_id, run_name)
        fields: dict[str, Json] = {
            "schema": SCHEMA,
            "run": {
                "name": run_name,
                "target": plan.target,
                "owner": owner(),
                "placement": asked.placement,
                "variables": dict(plan.variables),
            },
            "jobs": [_job(plan, job, repo, listings) for job in plan.jobs],
            "placement": [
                {"agent": one.agent, "verdict": one.verdict, "reason": one.reason}
                for one in opinions
            ],
        }
        chosen(asked.as_json).document(Document(fields, _text(plan, opinions)))
        return 0

    return carry_out(look())


async def _opinions(
    reach: Reach, job: PlannedJob, run_id: RunId, run_name: RunName
) -> list[Opinion]:
    question = Question(
        key=JobKey(run_id, job.index),
        run_name=run_name,
        needs=job.needs,
        executor=ExecutorKind.DOCKER if job.image else ExecutorKind.PROCESS,
        python=job.python,
        image=job.image,
        max_duration_seconds=job.max_duration_seconds,
        outside_paths=outside(*job.artifacts),
        ports=len(job.ports),
    )
    asking = [_opinion(agent, question) for agent in await reach.answering()]
    return sorted(await asyncio.gather(*asking), key=lambda one: one.agent)


async def _opinion(agent: Agent, question: Question) -> Opinion:
    try:
        verdict = (await agent.ask(question)).verdict
    except MeshError as error:
        return Opinion(agent.card.name, "no-answer", refusal(error).message)
    reasons = "; ".join(reason.message for reason in reasons_of(verdict))
    return Opinion(agent.card.name, WORDS[type(verdict)], reasons)


def _job(plan: Plan, job: PlannedJob, repo: str, listings: Sequence[Listing]) -> dict[str, Json]:
    chained: list[Json] = [
        {
            "workflow": plan.jobs[index].workflow,
            "job": index,
            "artifacts": list(plan.jobs[index].artifacts),
        }
        for index in job.after
    ]
    return {
        "job": job.index,
        "workflow": job.workflow,
        "provider": job.provider,
        "image": job.image,
        "commands": list(job.commands),
        "env": dict(job.env),
        "secrets": list(job.secrets_needed),
        "working_dir": job.working_dir,
        "python": job.python,
        "artifacts": list(job.artifacts),
        "deps": [*chained, *(_dep(reuse, repo, listings) for reuse in job.reuses)],
        "resources": _resources(job.needs),
        "nodes": job.node.count if job.node is not None else 1,
        "ports": list(job.ports),
        "after": list(job.after),
    }


def _dep(reuse: Reuse, repo: str, listings: Sequence[Listing]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    if reuse.run:
        found["run"] = reuse.run
    if reuse.tag:
        found["tag"] = reuse.tag
    if reuse.workflow:
        found["workflow"] = reuse.workflow
    try:
        inputs = resolve(reuse, repo, listings)
    except MeshError as error:
        return {**found, "artifacts": [], "missing": str(error)}
    return {**found, "from": inputs[0].origin, "artifacts": [one.path for one in inputs]}


def _resources(needs: Needs) -> dict[str, Json]:
    return {
        "cpu": needs.cpus,
        "memory_bytes": needs.memory_bytes,
        "gpu": {
            "count": needs.gpus,
            "name": needs.gpu_name,
            "memory_bytes": needs.gpu_memory_bytes,
        },
        "shm_size_bytes": needs.shm_bytes,
        "interruptible": needs.interruptible,
    }


def _text(plan: Plan, opinions: Sequence[Opinion]) -> str:
    jobs = Table(
        (Column("JOB"), Column("WORKFLOW"), Column("PROVIDER"), Column("NEEDS"), Column("AFTER")),
        tuple(
            (
                str(job.index),
                job.workflow,
                job.provider,
                _needs_text(job.needs),
                ", ".join(map(str, job.after)),
            )
            for job in plan.jobs
        ),
    )
    agents = Table(
        (Column("AGENT"), Column("WHEN"), Column("WHY")),
        tuple((one.agent, one.verdict, one.reason) for one in opinions),
    )
    lines = [*draw(jobs, None), "", *draw(agents, None), "", "Nothing was started."]
    return "\n".join(lines)


def _needs_text(needs: Needs) -> str:
    parts = [f"{needs.cpus} CPU"] if needs.cpus else []
    if needs.memory_bytes:
        parts.append(memory(needs.memory_bytes))
    if needs.gpus:
        parts.append(f"{needs.gpus} {needs.gpu_name or 'GPU'}".strip())
    return ", ".join(parts) or "-"
