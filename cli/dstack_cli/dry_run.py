"""`dstack run … --dry-run`: what would run, and what each agent says to it. Nothing is started."""

from collections.abc import Sequence
from pathlib import Path

from dstack_cli.here import repo_of
from dstack_cli.naming import owner
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document, Json
from dstack_cli.output.table import Column, Table, draw
from dstack_cli.output.words import memory
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_cli.remotes.only_told import OnlyTold
from dstack_cli.reusing import Taken, with_earlier_results
from dstack_cli.run_words import Asked
from dstack_cli.submitting import Order, submission
from dstack_mesh.faults import MeshError, Missing
from dstack_mesh.home import Home
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.agent_port import Listing, Question
from dstack_scheduler.job import JobKey
from dstack_scheduler.job_paths import outside
from dstack_scheduler.needs import Needs
from dstack_scheduler.opinions import Opinion, opinions
from dstack_scheduler.plan import Plan, PlannedJob, Reuse
from dstack_scheduler.resolve import resolve
from dstack_scheduler.reuse import Hit

SCHEMA = "dstack.plan/v1"


def show_plan(home: Home, order: Order, asked: Asked) -> int:
    """Shows what of an order would run; returns the exit code."""
    repo = repo_of(Path.cwd()) if any(job.reuses for job in order.plan.jobs) else ""

    async def look() -> int:
        private = Private.NEVER if asked.placement == "remote" else Private.ALWAYS
        async with reaching(home, private) as reach:
            listings = [listing for _, listing in await reach.listings()]
            taken = await _taken(reach, order)
            jobs = () if taken.whole is not None else taken.plan.jobs
            said = await _opinions(reach, jobs[0], order) if jobs else []
        told = [_job(taken, job, repo, listings) for job in jobs]
        fields: dict[str, Json] = {
            "schema": SCHEMA,
            "run": {
                "name": order.run_name,
                "target": order.plan.target,
                "owner": owner(),
                "placement": asked.placement,
                "variables": dict(order.plan.variables),
            },
            "reused": [_reused(hit) for hit in taken.hits.values()],
            "jobs": told,
            "placement": [
                {"agent": one.card.name, "verdict": one.when, "reason": _reason(one)}
                for one in said
            ],
        }
        missing = _missing(order.plan, repo, listings)
        text = _text(taken.lines, jobs, said, missing)
        chosen(asked.as_json).document(Document(fields, text))
        return 0

    return carry_out(look())


async def _taken(reach: Reach, order: Order) -> Taken:
    """What is left of the run; all of it where an input is missing, which is told beside it."""
    run = await submission(order)
    elsewhere = OnlyTold(reach.elsewhere) if reach.has_elsewhere else None
    try:
        return await with_earlier_results(reach, order, run, elsewhere)
    except Missing:
        return Taken(order.plan, run)


def _missing(plan: Plan, repo: str, listings: Sequence[Listing]) -> list[str]:
    """What jobs take their input from and nobody has."""
    missing: list[str] = []
    for job in plan.jobs:
        for reuse in job.reuses:
            try:
                resolve(reuse, repo, listings)
            except MeshError as error:
                missing.append(f"{job.workflow or job.provider} cannot start: {error}")
    return missing


async def _opinions(reach: Reach, job: PlannedJob, order: Order) -> list[Opinion]:
    question = Question(
        key=JobKey(order.run_id, job.index),
        run_name=order.run_name,
        needs=job.needs,
        executor=ExecutorKind.DOCKER if job.image else ExecutorKind.PROCESS,
        python=job.python,
        image=job.image,
        max_duration_seconds=job.max_duration_seconds,
        outside_paths=outside(job.artifacts, job.working_dir),
        ports=len(job.ports),
        ssh=any(app.ssh for app in job.apps),
    )
    said = await opinions(await reach.answering(), question)
    return sorted(said, key=lambda one: one.card.name)


def _reason(opinion: Opinion) -> str:
    return "; ".join(reason.message for reason in opinion.reasons)


def _reused(hit: Hit) -> dict[str, Json]:
    return {"workflow": hit.job.workflow, "run": hit.run.run_name, "job": hit.job.key.job}


def _job(taken: Taken, job: PlannedJob, repo: str, listings: Sequence[Listing]) -> dict[str, Json]:
    chained: list[Json] = [
        {
            "workflow": taken.plan.jobs[index].workflow,
            "job": index,
            "artifacts": list(taken.plan.jobs[index].artifacts),
        }
        for index in job.after
    ]
    chained += [
        {
            "workflow": workflow,
            "from": hit.run.run_name,
            "artifacts": [one.path for one in hit.job.artifacts],
        }
        for workflow, hit in taken.hits.items()
        if workflow in job.earlier
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


def _text(
    reused: Sequence[str],
    jobs: Sequence[PlannedJob],
    said: Sequence[Opinion],
    missing: Sequence[str],
) -> str:
    lines = [*reused, *missing]
    if jobs:
        lines += [*([""] if lines else []), *draw(_jobs_table(jobs), None)]
        lines += ["", *draw(_agents_table(said), None), ""]
    return "\n".join([*lines, "Nothing was started."])


def _jobs_table(jobs: Sequence[PlannedJob]) -> Table:
    return Table(
        (Column("JOB"), Column("WORKFLOW"), Column("PROVIDER"), Column("NEEDS"), Column("AFTER")),
        tuple(
            (
                str(job.index),
                job.workflow,
                job.provider,
                _needs_text(job.needs),
                ", ".join(map(str, job.after)),
            )
            for job in jobs
        ),
    )


def _agents_table(said: Sequence[Opinion]) -> Table:
    return Table(
        (Column("AGENT"), Column("WHEN"), Column("WHY")),
        tuple((one.card.name, one.when, _reason(one)) for one in said),
    )


def _needs_text(needs: Needs) -> str:
    parts = [f"{needs.cpus} CPU"] if needs.cpus else []
    if needs.memory_bytes:
        parts.append(memory(needs.memory_bytes))
    if needs.gpus:
        parts.append(f"{needs.gpus} {needs.gpu_name or 'GPU'}".strip())
    return ", ".join(parts) or "-"
