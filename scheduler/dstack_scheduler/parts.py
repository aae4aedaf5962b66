"""What the decisions of a run must know of each of its jobs. Pure.

A job whose secrets its driver does not have is not tried again: they travel with an award, and no
record holds them. It ends as its attempt did.
"""

from collections.abc import Collection

from dstack_scheduler.again import again_after, retry_of
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import JobSpec, StateChange
from dstack_scheduler.retry import ONCE
from dstack_scheduler.run_events import Part
from dstack_scheduler.track import awarded_key


def part_of(job: DrivenJob, secrets: Collection[str]) -> Part:
    """A job as `run.Run` decides on it; `secrets` are the names of those that are here."""
    spec, awarded = job.spec, job.awarded is not None
    key = awarded_key(job) if awarded else spec.key
    gang = spec.node.indexes(spec.key.job) if spec.node is not None else ()
    name = spec.workflow or spec.provider
    # A node that starts anew would find the others in the middle of their work.
    retry = ONCE if gang or _lacks(spec, secrets) else retry_of(spec)
    return Part(key, name, job.after, awarded, retry, spec.submitted_at, gang)


def is_given_up(spec: JobSpec, change: StateChange, secrets: Collection[str]) -> bool:
    """Whether an attempt that ended would be tried again but for secrets that are not here."""
    return _lacks(spec, secrets) and again_after(spec, change)


def _lacks(spec: JobSpec, secrets: Collection[str]) -> bool:
    return not set(spec.secrets_needed) <= set(secrets)
