"""Which run, and which job of it, a person means: by a run, a job's 12 digits, or a workflow."""

import re
from collections.abc import Sequence

from dstack_cli.misused import Misused
from dstack_cli.names import close_to, listed
from dstack_cli.picture import RunPicture
from dstack_cli.reach import chosen_run
from dstack_mesh.faults import Missing
from dstack_mesh.frozen import frozen
from dstack_scheduler.names import job_id

_JOB_ID = re.compile("[0-9a-f]{4,12}")


@frozen
class Meant:
    """A run, or one job of it; `job` is None for all."""

    picture: RunPicture
    job: int | None = None


def meant(text: str, pictures: Sequence[RunPicture], workflow: str = "") -> Meant:
    """What is meant by a run or a job, and perhaps by a workflow of the run.

    Raises:
        Missing: There is none.
        Misused: Several are possible.
    """
    found = _run_or_job(text, pictures)
    if not workflow:
        return found
    picture = found.picture
    jobs = [job for job in picture.record.jobs if workflow in (job.workflow, job.provider)]
    match jobs:
        case [job]:
            return Meant(picture, job.key.job)
        case []:
            known = dict.fromkeys(job.workflow or job.provider for job in picture.record.jobs)
            name = picture.record.run_name
            raise Missing(
                f"{name} has no job of {workflow!r}.",
                f"It has {listed(known) or 'none yet'}.",
                close_to(workflow, known) or f"dstack status {name}",
                "no-such-job",
            )
        case _:
            raise Misused(
                f"Several jobs of {picture.record.run_name} are of {workflow!r}.",
                f"They are {listed(str(job.key.job) for job in jobs)}.",
                f"--job {jobs[0].key.job}",
                code="ambiguous",
            )


def _run_or_job(text: str, pictures: Sequence[RunPicture]) -> Meant:
    try:
        return Meant(chosen_run(text, pictures))
    except Missing as missing:
        found = _jobs(text, pictures) if _JOB_ID.fullmatch(text) else []
        if len(found) == 1:
            return found[0]
        raise missing from None


def _jobs(text: str, pictures: Sequence[RunPicture]) -> list[Meant]:
    return [
        Meant(picture, index)
        for picture in pictures
        for index in range(picture.record.job_count)
        if job_id(picture.record.run_id, index).startswith(text)
    ]
