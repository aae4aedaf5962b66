"""Looks which jobs of a run have results already: asks every agent that may run jobs."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.agent_port import Agent, Directory, DrivenJob
from dstack_scheduler.job import JobSpec, Source
from dstack_scheduler.reuse import Hit, clash, hit_of, is_reusable, rank, reuse_key

PATIENCE_SECONDS = 1.0

OWNER = PeerId("")
"""What the agent of this home calls whoever submits from it."""


class Results:
    """Results that agents have. For one run.

    Args:
        code: What the run's jobs are made from.
        own_id: What other agents call this home.
        patience_seconds: Who is slower is not asked: running a job again is never wrong.
    """

    def __init__(
        self,
        directory: Directory,
        code: Manifest,
        own_id: PeerId,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._directory = directory
        self._code = code
        self._own_id = own_id
        self._patience_seconds = patience_seconds

    async def hits(self, jobs: Sequence[DrivenJob]) -> dict[int, Hit]:
        """The results of a run's jobs, by their indexes; never one without those before it.

        What jobs before it kept is part of what a job computes from, so a job is looked for once
        the results of all of them are known.
        """
        found: dict[int, Hit] = {}
        for index, job in enumerate(jobs):
            if job.spec.workflow and all(before in found for before in job.after):
                kept = [each for before in job.after for each in found[before].inputs]
                hit = await self._hit(replace(job.spec, inputs=(*job.spec.inputs, *kept)))
                if hit is not None and _is_alone(job, jobs):
                    found[index] = hit
        return _in_order(jobs, found)

    async def _hit(self, spec: JobSpec) -> Hit | None:
        """The newest result of those who answer; what this home has itself comes first."""
        if not is_reusable(spec):
            return None
        hits: list[Hit] = []
        asking: set[asyncio.Task[Hit | None]] = set()
        try:
            async with asyncio.timeout(self._patience_seconds):
                async with aclosing(self._directory.agents()) as agents:
                    async for agent in agents:
                        asked = asyncio.create_task(self._asked(agent, spec))
                        if not agent.local:
                            asking.add(asked)
                        elif (hit := await asked) is not None:
                            return hit
                for answer in asyncio.as_completed(asking):
                    if (hit := await answer) is not None:
                        hits.append(hit)
        except TimeoutError:
            pass
        finally:
            for task in asking:
                task.cancel()
        return max(hits, key=rank, default=None)

    async def _asked(self, agent: Agent, spec: JobSpec) -> Hit | None:
        key = await asyncio.to_thread(partial(self._key, agent, spec))
        try:
            listing = await agent.list_runs(reuse_keys=(key,))
        except MeshError:
            return None
        source = Source(agent.card.peer_id, agent.card.addresses)
        return hit_of(spec, key, source, listing.runs)

    def _key(self, agent: Agent, spec: JobSpec) -> Digest:
        return reuse_key(spec, self._code, OWNER if agent.local else self._own_id)


def with_results(
    jobs: Sequence[DrivenJob],
    earlier: Sequence[Collection[str]],
    hits: Mapping[str, Hit],
    found: Mapping[str, JobSpec],
) -> tuple[DrivenJob, ...]:
    """The jobs that run, with what stands in for those that do not.

    Args:
        earlier: Of each job the workflows before it whose results are taken.
        hits: By workflow.
        found: By `name_of`: the specifications of before that was known, with inputs that were
            looked up.
    """
    return tuple(
        replace(
            job,
            spec=replace(
                job.spec,
                inputs=(
                    *found[name_of(job.spec)].inputs,
                    *(each for name in names for each in hits[name].inputs),
                ),
            ),
        )
        for job, names in zip(jobs, earlier, strict=True)
    )


def name_of(spec: JobSpec) -> str:
    """The workflow that a job is of, also where it only makes that workflow's jobs."""
    return spec.workflow or spec.makes


def _is_alone(job: DrivenJob, jobs: Sequence[DrivenJob]) -> bool:
    """Whether a workflow has but one job: others of it may have kept what this one did not."""
    return sum(each.spec.workflow == job.spec.workflow for each in jobs) == 1


def _in_order(jobs: Sequence[DrivenJob], hits: Mapping[int, Hit]) -> dict[int, Hit]:
    """The results that may be laid before what still runs, wherever that was declared.

    Inputs merge in declared order, and results come first. So a result is not taken that was
    declared after a job that runs and has files at the same paths.
    """
    taken = dict(hits)
    while (late := _late(jobs, taken)) is not None:
        # What was made from it would be of another making than what is made now.
        taken = {
            index: hit
            for index, hit in taken.items()
            if index != late and late not in jobs[index].after
        }
    return taken


def _late(jobs: Sequence[DrivenJob], taken: Mapping[int, Hit]) -> int | None:
    for index, job in enumerate(jobs):
        if index in taken:
            continue
        running: list[str] = []
        for before in job.after:
            if before not in taken:
                running += jobs[before].spec.artifacts
            elif clash(running, (each.path for each in taken[before].inputs)):
                return before
    return None
