"""Jobs that a job made: the end of an own provider's program turns into jobs of its run.

What the program wrote is read by the rules of workflow files, so it can ask for nothing that the
submitter could not have written. Less, even: secrets only as far as the workflow names them, and no
place but the run's. If the jobs are wrong one job takes their place that says so and fails: then
whoever looks at the run sees it, wherever it is driven.
"""

import posixpath
import shlex
from dataclasses import replace

from dstack_mesh.faults import MeshError, Refused
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.providers.own import FILE, FOLDER
from dstack_scheduler.workflow.document import SourceFile
from dstack_scheduler.workflow.planning import plan_all
from dstack_scheduler.workflow.problem import WorkflowProblems
from dstack_scheduler.workflow.project import read_project

MOST_MADE = 1000
"""Jobs that one program may make."""

SHOWN = 5


def grown(
    jobs: tuple[DrivenJob, ...], maker: int, text: bytes | MeshError
) -> tuple[DrivenJob, ...]:
    """The jobs of a run with those that one of them made.

    Who waits for the maker waits for all that it made. The maker makes no more.

    Args:
        text: What the program wrote, or why that cannot be had.
    """
    first = len(jobs)
    try:
        if isinstance(text, MeshError):
            raise text
        made = _made(jobs[maker], text, first)
    except WorkflowProblems as problems:
        made = (_complaint(jobs[maker], first, _in_words(problems)),)
    except MeshError as error:
        made = (_complaint(jobs[maker], first, f"{error}"),)
    count = first + len(made)
    spec = replace(jobs[maker].spec, makes="")
    known = (
        *jobs[:maker],
        replace(jobs[maker], spec=spec),
        *(_waiting_for(job, maker, range(first, count)) for job in jobs[maker + 1 :]),
    )
    return (*known, *(replace(job, spec=replace(job.spec, job_count=count)) for job in made))


def _made(maker: DrivenJob, text: bytes, first: int) -> tuple[DrivenJob, ...]:
    """Raises WorkflowProblems or Refused."""
    project = read_project([SourceFile(f"{FOLDER}/{FILE}", text)], [])
    spec = maker.spec
    planned = plan_all(project, run_name=spec.run_name, run_id=spec.key.run_id, first=first)
    if not planned:
        raise _wrong("It made no jobs.", f"{FOLDER}/{FILE} names none.")
    if len(planned) > MOST_MADE:
        raise _wrong(f"It made {len(planned):,} jobs.", f"A program may make {MOST_MADE:,}.")
    return tuple(_driven(maker, job) for job in planned)


def _driven(maker: DrivenJob, job: PlannedJob) -> DrivenJob:
    """A planned job in the name of the workflow whose program made it."""
    spec = maker.spec
    if more := set(job.secrets_needed) - set(spec.secret_names):
        raise _wrong(
            f"{job.workflow} asks for the secret {min(more)}.", f"{spec.makes} does not name it."
        )
    if job.reuses:
        text = job.reuses[0].text
        raise _wrong(f"{job.workflow} takes {text} from another run.", "Name it in the workflow.")
    made = replace(
        spec,
        key=JobKey(spec.key.run_id, job.index),
        workflow=spec.makes,
        provider=job.provider,
        commands=job.commands,
        needs=job.needs,
        image=job.image,
        entrypoint=job.entrypoint,
        env={**spec.env, **job.env},
        working_dir=posixpath.normpath(posixpath.join(spec.working_dir, job.working_dir)),
        artifacts=job.artifacts,
        python=job.python,
        max_duration_seconds=job.max_duration_seconds or spec.max_duration_seconds,
        idle_timeout_seconds=job.idle_timeout_seconds or spec.idle_timeout_seconds,
        retry=job.retry or spec.retry,
        cache=job.cache or spec.cache,
        apps=job.apps,
        secret_names=job.secret_names,
        ports=job.ports,
        registry_auth=job.registry_auth,
        node=job.node,
        installs=job.installs,
        prebuild=spec.prebuild if job.prebuild is Prebuild.USUAL else job.prebuild,
        makes="",
    )
    if made.working_dir == ".":
        made = replace(made, working_dir="")
    return DrivenJob(made, (*maker.after, *job.after), maker.placement)


def _waiting_for(job: DrivenJob, maker: int, made: range) -> DrivenJob:
    if maker not in job.after:
        return job
    after = [other for before in job.after for other in (made if before == maker else (before,))]
    return replace(job, after=tuple(after))


def _complaint(maker: DrivenJob, index: int, words: str) -> DrivenJob:
    """A job that says what is wrong with the jobs of a program, and fails."""
    said = f"The jobs that {maker.spec.provider} made cannot run.\n{words}\n"
    command = f"printf %s {shlex.quote(said)} >&2; exit 65"
    spec = replace(
        maker.spec,
        key=JobKey(maker.spec.key.run_id, index),
        workflow=maker.spec.makes,
        provider="bash",
        commands=(command,),
        needs=Needs(),
        artifacts=(),
        secret_names=(),
        installs=(),
        makes="",
    )
    return DrivenJob(spec, maker.after, maker.placement)


def _in_words(problems: WorkflowProblems) -> str:
    lines = [f"{one.file}:{one.line}: {one.message}" for one in problems.problems]
    return "\n".join(lines[:SHOWN])


def _wrong(what: str, why: str) -> Refused:
    return Refused(what, why, "correct the provider's program", code="bad-jobs")
