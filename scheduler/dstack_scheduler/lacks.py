"""What a machine lacks for a job for good: why it could never run it, whatever ends or is freed."""

from dstack_mesh.machine import ExecutorKind, Gpu, Machine
from dstack_scheduler.agent_port import Question
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.gpus import memory_fits, name_fits, nominal_gb
from dstack_scheduler.needs import Needs
from dstack_scheduler.phrases import count, gigabytes, largest_whole, listing, models, wanted_cards
from dstack_scheduler.policy import Policy
from dstack_scheduler.verdict import Reason


def lacks_of(
    question: Question, machine: Machine, policy: Policy, asker: Asker = OWNER
) -> list[Reason]:
    """Why this machine can never run the job, even with everything on it free; empty if it can."""
    return [
        *_executor_lacks(question, machine, policy),
        *_ssh_lacks(question, machine, asker),
        *_size_lacks(question.needs, machine),
        *_card_lacks(question.needs, machine.gpus),
        *_lastingness_lacks(question.needs, machine),
    ]


def _lastingness_lacks(needs: Needs, machine: Machine) -> list[Reason]:
    if not machine.interruptible or needs.interruptible:
        return []
    message = "The machine may be taken away at any moment, and the job may not be interrupted."
    return [Reason("interruptible", message, "-i   (or interruptible: true below resources)")]


def _executor_lacks(question: Question, machine: Machine, policy: Policy) -> list[Reason]:
    match question.executor:
        case ExecutorKind.DOCKER:
            if ExecutorKind.DOCKER in machine.executors:
                return []
            return [_no_docker(machine.no_docker)]
        case ExecutorKind.PROCESS:
            if not policy.allow_process or ExecutorKind.PROCESS not in machine.executors:
                why = "The owner of this machine allows jobs in containers only."
                return [Reason("no-process", why, 'give the workflow an "image"')]
            return _python_lacks(question.python, machine.pythons)


def _no_docker(said: str) -> Reason:
    allow = 'sudo usermod -aG docker "$USER"   (there; then log in again and restart the agent)'
    start = "sudo systemctl start docker   (there)"
    hint = allow if "Permission denied" in said else start
    return Reason("no-docker", said or "Docker does not answer here.", hint)


def _ssh_lacks(question: Question, machine: Machine, asker: Asker) -> list[Reason]:
    if not question.ssh:
        return []
    if question.executor is ExecutorKind.DOCKER:
        why = machine.no_sshd_in_containers
        return [Reason("no-ssh", why, 'run it without an "image", or with --no-ssh')] if why else []
    why = machine.no_sshd if asker.is_owner else machine.no_sshd_of_others
    install = "sudo apt install openssh-server   (there; it need not run)"
    return [Reason("no-ssh", why, install if "not installed" in why else "")] if why else []


def _python_lacks(wanted: str, pythons: tuple[str, ...]) -> list[Reason]:
    if not wanted or any(_same_python(wanted, python) for python in pythons):
        return []
    has = listing(pythons) if pythons else "none"
    hint = f"uv python install {wanted}   (there)"
    return [Reason("no-python", f"Python {wanted} is not here; there is {has}.", hint)]


def _same_python(wanted: str, python: str) -> bool:
    """Whether "3" or "3.11" or "3.11.2" is met by "3.11": the parts that both name are equal."""
    pairs = zip(wanted.split("."), python.split("."), strict=False)
    return all(ours == theirs for ours, theirs in pairs)


def _size_lacks(needs: Needs, machine: Machine) -> list[Reason]:
    lacks: list[Reason] = []
    if needs.cpus > machine.cpus:
        message = f"The job needs {count(needs.cpus, 'CPU')}; the machine has {machine.cpus}."
        lacks.append(Reason("cpu-too-few", message, f"--cpu {machine.cpus}"))
    demand = memory_demand(needs)
    if demand > machine.memory_bytes:
        has = machine.memory_bytes
        message = f"The job needs {gigabytes(demand)} of memory; the machine has {gigabytes(has)}."
        lacks.append(Reason("memory-too-small", message, f"--memory {largest_whole(has)}"))
    return lacks


def _card_lacks(needs: Needs, cards: tuple[Gpu, ...]) -> list[Reason]:
    """What the machine's cards lack even when all of them are free."""
    if not needs.gpus:
        return []
    wanted = wanted_cards(needs)
    if not cards:
        return [Reason("gpu-too-few", f"The job needs {wanted}; the machine has none.")]
    named = [gpu for gpu in cards if name_fits(needs.gpu_name, gpu.name)]
    if not named:
        message = f"The job needs {wanted}; the machine has {models(cards)}."
        return [Reason("gpu-name", message, f'--gpu-name "{cards[0].name}"')]
    most = needs.gpu_memory_most_bytes
    small = [gpu for gpu in named if memory_fits(0, gpu.memory_bytes, most)]
    if not small:
        message = f"The job takes cards of at most {gigabytes(most)}; it has {models(named)}."
        return [Reason("gpu-memory", message, "leave out the upper end of its gpu memory")]
    return _short_of(needs, small)


def _short_of(needs: Needs, named: list[Gpu]) -> list[Reason]:
    """What is missing among cards that would do."""
    wanted, lacks = wanted_cards(needs), list[Reason]()
    if len(named) < needs.gpus:
        message = f"The job needs {wanted}; the machine has {models(named)}."
        lacks.append(Reason("gpu-too-few", message, f"--gpu {len(named)}"))
    enough = min(needs.gpus, len(named))
    sizes = sorted((gpu.memory_bytes for gpu in named), reverse=True)
    if not memory_fits(needs.gpu_memory_bytes, sizes[enough - 1]):
        each = f"{gigabytes(needs.gpu_memory_bytes)} of memory on each of {count(enough, 'GPU')}"
        message = f"The job needs {each}; the machine has {models(named)}."
        hint = f"--gpu-memory {nominal_gb(sizes[enough - 1])}GB"
        lacks.append(Reason("gpu-memory", message, hint))
    return lacks


def memory_demand(needs: Needs) -> int:
    """Memory that a job asks for; pages of /dev/shm are part of it, not beside it."""
    return max(needs.memory_bytes, needs.shm_bytes)
