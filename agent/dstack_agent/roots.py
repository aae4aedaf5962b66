"""Which trees the runs of an agent need: what its store must never collect.

Of every job that is known here the code and what it kept; of one that goes on also what it reads.
Runs that are driven here count like those that run here, and so do caches. A tag names a run, so
what it names is among them. Copies of what ran elsewhere are kept by `ChunkStore.keep`.
"""

import asyncio
from collections.abc import Iterator

from dstack_agent.caches import Caches
from dstack_agent.driven import DrivenRun, DrivenRuns
from dstack_agent.records import Records
from dstack_mesh.ids import Digest, RunId
from dstack_scheduler.job import JobSpec


async def roots_of(records: Records, driven: DrivenRuns, caches: Caches) -> set[Digest]:
    """The manifests, read a run at a time so that nobody waits."""
    roots = caches.digests()
    for run_id in records.run_ids():
        roots.update(_of_run(records, run_id))
        await asyncio.sleep(0)
    for run_id in driven.run_ids():
        run = driven.find(run_id)
        if run is not None:
            roots.update(_of_driven(run))
        await asyncio.sleep(0)
    return {digest for digest in roots if digest}


def _of_run(records: Records, run_id: RunId) -> Iterator[Digest]:
    for job in records.of_run(run_id):
        yield from _of_spec(job.spec, over=job.fin is not None)
        for artifact in records.artifacts(job.key):
            yield artifact.digest
        for artifact in job.fin.artifacts if job.fin is not None else ():
            yield artifact.digest


def _of_driven(run: DrivenRun) -> Iterator[Digest]:
    for job in run.jobs:
        yield from _of_spec(job.spec, run.over)
    for record in run.record.jobs:
        for artifact in record.artifacts:
            yield artifact.digest


def _of_spec(spec: JobSpec, over: bool) -> Iterator[Digest]:
    yield spec.code_digest
    if not over:
        for each in spec.inputs:
            yield each.digest
