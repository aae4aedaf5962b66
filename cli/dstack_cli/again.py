"""A run that ended, made into one that goes on from what it kept. Pure.

Jobs that were done stay done: what they kept is laid in where it is needed. The others run again,
and those that come after them; each finds what it had kept itself in its place, unless cleared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from dstack_cli.orders import Ordered
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import Input, JobKey, JobRecord, JobState, RunRecord, Source
from dstack_scheduler.resolve import inputs_of


@frozen
class Anew:
    """What the new run is called, who submits it and when."""

    run_id: RunId
    run_name: RunName
    owner: str
    at: datetime


@frozen
class Choice:
    """What of the old run is made again.

    Attributes:
        only: This job and no other; None for those that were not done, or the last one.
        clear: Everything is made again, from nothing.
    """

    only: int | None = None
    clear: bool = False


def again(
    ordered: Ordered, told: RunRecord, choice: Choice, anew: Anew
) -> tuple[RunRecord, tuple[DrivenJob, ...]]:
    """The new run and its jobs.

    Args:
        told: How the old run ended, each job with its newest attempt.
    """
    ended = {job.key.job: job for job in told.jobs}
    chosen = _chosen(ordered.jobs, ended, choice)
    record = replace(
        ordered.record,
        run_id=anew.run_id,
        run_name=anew.run_name,
        owner=anew.owner,
        submitted_at=anew.at,
        job_count=len(chosen) + sum(bool(ordered.jobs[old].spec.makes) for old in chosen),
        jobs=(),
    )
    places = {old: new for new, old in enumerate(chosen)}
    jobs = (_made(ordered.jobs[old], places, ended, told, choice.clear, record) for old in chosen)
    return record, tuple(jobs)


def _chosen(jobs: Sequence[DrivenJob], ended: Mapping[int, JobRecord], choice: Choice) -> list[int]:
    """The jobs that are made again, in order.

    What a job made is not in the order, so it is made again with its maker, and so is a gang: its
    nodes start together.
    """
    if choice.clear:
        return list(range(len(jobs)))
    makers = {index for index, job in enumerate(jobs) if job.spec.makes}
    done = {index for index, job in ended.items() if job.state.state is JobState.DONE} - makers
    chosen: set[int] = set()
    if choice.only is None:
        for index, job in enumerate(jobs):
            if index not in done or set(job.after) & chosen:
                chosen.add(index)
    elif choice.only < len(jobs):
        chosen = {choice.only, *(makers & set(jobs[choice.only].after))}
    else:  # one that a job made
        chosen = makers
    return sorted({node for index in chosen or {len(jobs) - 1} for node in _gang(jobs[index])})


def _gang(job: DrivenJob) -> tuple[int, ...]:
    """The jobs that start together with one."""
    spec = job.spec
    return spec.node.indexes(spec.key.job) if spec.node is not None else (spec.key.job,)


def _made(
    job: DrivenJob,
    places: Mapping[int, int],
    ended: Mapping[int, JobRecord],
    told: RunRecord,
    clear: bool,
    record: RunRecord,
) -> DrivenJob:
    old = job.spec.key.job
    before = [index for index in job.after if index not in places]
    kept = [each for index in before if index in ended for each in inputs_of(ended[index], told)]
    own = [] if clear or old not in ended else _own(ended[old], told)
    spec = replace(
        job.spec,
        key=JobKey(record.run_id, places[old]),
        run_name=record.run_name,
        owner=record.owner,
        submitted_at=record.submitted_at,
        job_count=record.job_count,
        inputs=(*job.spec.inputs, *kept, *own),
    )
    after = tuple(places[index] for index in job.after if index in places)
    return replace(job, spec=spec, after=after, awarded=None, signed=None)


def _own(job: JobRecord, told: RunRecord) -> list[Input]:
    """What a job had kept itself, also what was not whole: laid in last, so that it counts."""
    sources = job.copies or ((Source(job.agent_id),) if job.agent_id is not None else ())
    return [
        Input(one.digest, one.path, sources, f"{told.run_name}, as it was left", one.size_bytes)
        for one in job.artifacts
    ]
