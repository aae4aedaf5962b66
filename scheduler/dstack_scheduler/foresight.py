"""Looks ahead: a chain with a job that fits nowhere is refused before its first job starts.

Asked are the jobs that start later; the first ones find out by their own auctions. One agent that
does not say never is enough, and whoever does not answer may yet: silence refuses nothing.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from dstack_mesh.faults import MeshError
from dstack_scheduler.agent_port import Agent, Directory, DrivenJob, Question, question_of
from dstack_scheduler.queues import alike
from dstack_scheduler.refusal import no_agent_fits
from dstack_scheduler.verdict import Never

ASK_SECONDS = 1.0
"""An agent that takes longer counts as one that may."""


async def refuse_hopeless(jobs: Sequence[DrivenJob], directory: Directory) -> None:
    """Raises NoAgentFits if every agent says that a later job can never run there."""
    asked: set[tuple[Question, str]] = set()
    for job in jobs:
        if job.after and job.awarded is None and job.placement in ("", "local", "remote"):
            kind = alike(question_of(job.spec), job.placement)
            if kind not in asked:
                asked.add(kind)
                await _refuse_hopeless(job, directory)


async def _refuse_hopeless(job: DrivenJob, directory: Directory) -> None:
    question = question_of(job.spec)
    verdicts: dict[str, Never] = {}
    async with aclosing(directory.agents()) as agents:
        async for agent in agents:
            if job.placement and agent.local is not (job.placement == "local"):
                continue
            never = await _never(agent, question)
            if never is None:
                return
            verdicts[agent.card.name] = never
    if verdicts:
        raise no_agent_fits(job.spec.workflow or job.spec.provider, verdicts)


async def _never(agent: Agent, question: Question) -> Never | None:
    """The agent's never; None for every other answer, and for none."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            verdict = (await agent.ask(question)).verdict
    except (MeshError, TimeoutError):
        return None
    return verdict if isinstance(verdict, Never) else None
