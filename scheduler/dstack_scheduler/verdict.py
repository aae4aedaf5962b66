"""A typed answer to "could you run this job", with reasons.

Why typed: a bare yes or no makes "try again", "never" and "when that run ends" look alike, and
people cannot act on it.
"""

from dstack_mesh.frozen import frozen


@frozen
class Reason:
    """One reason.

    Attributes:
        code: Stable word: gpu-busy, gpu-foreign, gpu-too-few, gpu-name, gpu-memory, cpu-too-few,
            cpu-busy, memory-too-small, memory-busy, disk-full, no-docker, no-process, no-python,
            paused, draining, no-runner, too-many-jobs, no-answer, excluded, protocol-too-old;
            policy-who, policy-executors, policy-images, policy-gpus, policy-cpus, policy-memory,
            policy-disk, policy-longest, policy-hours, policy-network, policy-mounts.
        message: A sentence for people, with the value seen.
        hint: What would change the answer; may be empty.
    """

    code: str
    message: str
    hint: str = ""


@frozen
class Now:
    """Could start at once.

    Attributes:
        gpu_uuids: Cards it would give.
        gpus_left: Cards free afterwards; smaller is a tighter fit.
        running: Jobs that run there now.
    """

    gpu_uuids: tuple[str, ...] = ()
    gpus_left: int = 0
    running: int = 0


@frozen
class Later:
    """Could run once something ends; `wait_seconds` is None if nobody can say when."""

    reasons: tuple[Reason, ...]
    wait_seconds: float | None = None


@frozen
class NotNow:
    """Does not take the job at present, for a reason that may pass."""

    reasons: tuple[Reason, ...]


@frozen
class Never:
    """This machine cannot run the job."""

    reasons: tuple[Reason, ...]


Verdict = Now | Later | NotNow | Never


@frozen
class Bid:
    """An agent's answer to an ask."""

    verdict: Verdict
    missing_bytes: int = 0
