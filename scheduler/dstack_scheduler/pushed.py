"""What a remote keeps of a run: its record, and where the logs of its jobs are."""

from dataclasses import replace

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest
from dstack_scheduler.job import JobKey, JobRecord, RunRecord


@frozen
class PushedLog:
    """The log of an attempt as a tree of files."""

    key: JobKey
    digest: Digest
    size_bytes: int


@frozen
class PushedRun:
    """A run that ended and lies in a remote with everything that it names."""

    run: RunRecord
    logs: tuple[PushedLog, ...] = ()

    @property
    def trees(self) -> tuple[Digest, ...]:
        """Everything that it names, each once."""
        kept = [artifact.digest for job in self.run.jobs for artifact in job.artifacts]
        return tuple(dict.fromkeys([*kept, *(log.digest for log in self.logs)]))


def for_everybody(run: RunRecord) -> RunRecord:
    """A run without what only its own mesh can use: who else has copies, and at which address.

    So the same run has the same record whoever pushes it.
    """
    jobs = (replace(_plain(job), copies=()) for job in run.jobs)
    return replace(run, jobs=tuple(sorted(jobs, key=lambda job: job.key)))


def _plain(job: JobRecord) -> JobRecord:
    return replace(job, gpu_uuids=tuple(sorted(job.gpu_uuids)))
