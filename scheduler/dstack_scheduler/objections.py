"""What the owner of a machine has against a job: her policy and a question in, reasons out.

Every rule only adds reasons, so no rule can turn a no into a yes. The owner herself is bound by the
rules that say what may run, not by those that say for whom and when.
"""

import re
from datetime import datetime
from fnmatch import fnmatchcase

from dstack_mesh.frozen import frozen
from dstack_mesh.machine import ExecutorKind, Machine
from dstack_scheduler.agent_port import Question
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.gpus import memory_fits, name_fits
from dstack_scheduler.hours import clock, covered, next_begin
from dstack_scheduler.needs import Needs
from dstack_scheduler.phrases import count, gigabytes, largest_whole, models, wanted_cards
from dstack_scheduler.policy import Network, Policy
from dstack_scheduler.verdict import Reason

ROLE = "role:"
"""Before a role among those who may use the machine."""

FULL_ID = re.compile(r"[a-z2-7]{32}\Z")
"""An id, which is never taken for a name."""

NEVER = datetime.min
"""For questions that no time matters to."""


@frozen
class Occasion:
    """Who asks, when, and what only the agent knows of the machine at that moment.

    Attributes:
        at: The wall clock of the machine.
        paused_until: When the owner's pause ends; None where nobody knows.
        disk_used_bytes: Of jobs' folders and of what is kept.
    """

    asker: Asker = OWNER
    at: datetime = NEVER
    paused_until: datetime | None = None
    disk_used_bytes: int = 0


def for_good(question: Question, machine: Machine, policy: Policy, asker: Asker) -> list[Reason]:
    """What no waiting changes."""
    stranger = _stranger(policy, asker)
    if stranger:
        return stranger  # What else is allowed is none of their business.
    return [
        *_executor(question, policy),
        *_image(question, policy),
        *_cards(question.needs, machine, policy),
        *_sizes(question.needs, machine, policy),
        *_length(question, policy),
        *_network(question, policy),
        *_mounts(question, policy),
    ]


def for_now(question: Question, policy: Policy, occasion: Occasion) -> list[Reason]:
    """What passes by itself or when something is removed."""
    return [*_hours(question.needs, policy, occasion), *_disk(policy, occasion)]


def _stranger(policy: Policy, asker: Asker) -> list[Reason]:
    if policy.who is None or asker.is_owner:
        return []
    if any(_is(asker, word) for word in policy.who):
        return _stranger(policy, asker.behind) if asker.behind else []
    message = f"{policy.lender} is not lent to {asker}."
    return [Reason("policy-who", message, f"its owner allows {asker.peer_id} in policy.yaml there")]


def _is(asker: Asker, word: str) -> bool:
    if word.startswith(ROLE):
        return asker.role == word.removeprefix(ROLE)
    if FULL_ID.match(word):
        return asker.peer_id == word
    return bool(asker.name) and asker.name == word


def _executor(question: Question, policy: Policy) -> list[Reason]:
    if policy.executors is None or question.executor in policy.executors:
        return []
    way = {ExecutorKind.PROCESS: "processes", ExecutorKind.DOCKER: "containers"}
    others = [way[kind] for kind in ExecutorKind if kind in policy.executors]
    message = f"{policy.lender} runs no {way[question.executor]}, only {' and '.join(others)}."
    if not others:
        message = f"{policy.lender} runs no jobs."
    process = question.executor is ExecutorKind.PROCESS
    hint = 'give the workflow an "image"' if process else 'run it without an "image"'
    return [Reason("policy-executors", message, hint if others else "")]


def _image(question: Question, policy: Policy) -> list[Reason]:
    """An image that is not said yet is judged when the job is awarded."""
    if policy.images is None or question.executor is ExecutorKind.PROCESS or not question.image:
        return []
    if any(image_fits(pattern, question.image) for pattern in policy.images):
        return []
    message = f"{policy.lender} does not run the image {question.image}."
    allowed = ", ".join(policy.images)
    return [Reason("policy-images", message, f"an image of: {allowed}" if allowed else "")]


def image_fits(pattern: str, image: str) -> bool:
    """Whether a pattern names an image; without a tag it has the tag that the engine takes."""
    tagged = ":" in image.rpartition("/")[2] or "@" in image
    return fnmatchcase(image, pattern) or (not tagged and fnmatchcase(f"{image}:latest", pattern))


def _cards(needs: Needs, machine: Machine, policy: Policy) -> list[Reason]:
    if not needs.gpus:
        return []
    lent = policy.cards.of(machine.gpus)
    fitting = [
        gpu
        for gpu in lent
        if name_fits(needs.gpu_name, gpu.name)
        and memory_fits(needs.gpu_memory_bytes, gpu.memory_bytes, needs.gpu_memory_most_bytes)
    ]
    most = policy.cards.most
    limit = len(fitting) if most is None else min(len(fitting), most)
    if needs.gpus <= limit:
        return []
    lends = models(lent) if lent else "none of its GPUs"
    at_once = "" if most is None else f", {most} at once"
    message = f"The job needs {wanted_cards(needs)}; {policy.lender} lends {lends}{at_once}."
    return [Reason("policy-gpus", message, f"--gpu {limit}" if limit else "")]


def _sizes(needs: Needs, machine: Machine, policy: Policy) -> list[Reason]:
    reasons: list[Reason] = []
    if policy.cpus is not None and policy.cpus < needs.cpus <= machine.cpus:
        has = f"{policy.lender} lends {policy.cpus} of its {count(machine.cpus, 'CPU')}"
        message = f"The job needs {count(needs.cpus, 'CPU')}; {has}."
        reasons.append(Reason("policy-cpus", message, f"--cpu {policy.cpus}"))
    demand = max(needs.memory_bytes, needs.shm_bytes)
    most = policy.memory_bytes
    if most is not None and most < demand <= machine.memory_bytes:
        has = f"{policy.lender} lends {gigabytes(most)}"
        message = f"The job needs {gigabytes(demand)} of memory; {has}."
        reasons.append(Reason("policy-memory", message, f"--memory {largest_whole(most)}"))
    return reasons


def _length(question: Question, policy: Policy) -> list[Reason]:
    wanted, most = question.max_duration_seconds, policy.longest_seconds
    if wanted is None or most is None or wanted <= most:
        return []
    message = f"The job may run for {duration(wanted)}; on {policy.lender} for {duration(most)}."
    return [Reason("policy-longest", message, f"a max_duration of {duration(most)} at most")]


def _network(question: Question, policy: Policy) -> list[Reason]:
    docker = question.executor is ExecutorKind.DOCKER
    if policy.network is Network.BRIDGE or not (docker and (question.ports or question.meets)):
        return []
    does = f"listens on {count(question.ports, 'port')}" if question.ports else "has several nodes"
    message = f"The job {does}; containers on"
    message += f" {policy.lender} have no network."
    return [Reason("policy-network", message)]


def _mounts(question: Question, policy: Policy) -> list[Reason]:
    """Only of processes: what a container has at an absolute path lies in its job's folder."""
    if policy.mounts or question.executor is ExecutorKind.DOCKER or not question.outside_paths:
        return []
    paths = ", ".join(question.outside_paths)
    message = f"The job keeps, gets or starts in {paths};"
    message += f" on {policy.lender} jobs stay in their own folder."
    return [Reason("policy-mounts", message, "a path relative to the working directory")]


def _hours(needs: Needs, policy: Policy, occasion: Occasion) -> list[Reason]:
    if policy.hours is None or occasion.asker.is_owner or covered(policy.hours, occasion.at):
        return []
    what = "its GPUs" if needs.gpus else "itself"
    when = " and ".join(window.text for window in policy.hours)
    if not policy.hours:
        return [Reason("policy-hours", f"{policy.lender} lends {what} at no time.")]
    begins = clock(next_begin(policy.hours, occasion.at), occasion.at)
    message = f"{policy.lender} lends {what} {when}, next at {begins};"
    message += f" there it is {occasion.at:%A %H:%M}."
    return [Reason("policy-hours", message, f"it can start at {begins}")]


def _disk(policy: Policy, occasion: Occasion) -> list[Reason]:
    most, used = policy.disk_bytes, occasion.disk_used_bytes
    if most is None or used < most:
        return []
    message = f"Jobs have {gigabytes(used)} of the {gigabytes(most)} of disk"
    message += f" that {policy.lender} lends."
    return [Reason("policy-disk", message, "remove old runs there")]


def duration(seconds: float) -> str:
    """A time span as people write it: "4h", "1h30m", "45s"."""
    whole = round(seconds)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
