"""What jobs would get on this machine, and what stands in the way of serving them."""

import os
import socket
from datetime import datetime
from pathlib import Path

from dstack_agent.executor.masking import HINT, why_no_masks
from dstack_agent.executor.pythons import available
from dstack_agent.inventory import Inventory
from dstack_agent.inventory.declared import DeclaredSource
from dstack_agent.inventory.docker_socket import docker_socket, docker_trouble
from dstack_agent.inventory.isolation import isolation_of
from dstack_agent.real_cards import RealCards
from dstack_agent.settings import Settings
from dstack_agent.status import gpu_line, gpu_shape
from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.machine import ExecutorKind, Machine
from dstack_mesh.trust.membership import NOT_A_MEMBER_HINT, Membership

GIB = 2**30
LOW_DISK_BYTES = 10 * GIB


@frozen
class Problem:
    """Something that stands in the way, and what would remove it."""

    code: str
    message: str
    hint: str = ""


@frozen
class Checkup:
    """What was found. `notes` are worth knowing and stand in nobody's way."""

    machine: Machine
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


def examine(settings: Settings, clock: Clock | None = None) -> Checkup:
    """Looks at this machine as an agent with these settings would."""
    clock = clock or SystemClock()
    inventory = Inventory(
        settings.home.jobs,
        clock,
        sources=(DeclaredSource(settings.home.root, settings.gpus), RealCards(no_folders)),
        docker=lambda: docker_trouble(docker_socket()),
        pythons=available,
        allow_process=settings.allow_process,
        isolation=lambda: isolation_of(docker_socket()),
    )
    machine = inventory.read()
    problems = [*_mesh(settings, clock.now()), *_port(settings), *_home(settings)]
    return Checkup(machine, tuple(problems), tuple(_notes(machine)))


def no_folders() -> list[Path]:
    """No job is ours to tell apart."""
    return []


def _mesh(settings: Settings, now: datetime) -> list[Problem]:
    try:
        membership = Membership.load(settings.home)
        if membership is None:
            why = f"{settings.home.root} has not joined a mesh."
            return [Problem("not-a-member", why, NOT_A_MEMBER_HINT)]
        membership.check_valid(now)
    except MeshError as error:
        return [Problem(error.code, str(error), error.hint)]
    return []


def _port(settings: Settings) -> list[Problem]:
    if settings.port == 0 or _serves(settings):
        return []
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            why = f"{settings.host}:{settings.port} cannot be opened: {error.strerror}."
            return [Problem("port-taken", why, "Choose another: dstack-runner start --listen …")]
    return []


def _serves(settings: Settings) -> bool:
    """Whether an agent of this home runs; then the port is rightly taken."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(settings.home.agent_socket))
        except OSError:
            return False
    return True


def _home(settings: Settings) -> list[Problem]:
    try:
        settings.home.prepare()
    except OSError as error:
        why = f"{settings.home.root} cannot be written: {error.strerror}."
        return [Problem("home-not-writable", why, "Choose another: --home DIR or DSTACK_HOME.")]
    return []


def _notes(machine: Machine) -> list[Problem]:
    notes: list[Problem] = []
    if ExecutorKind.DOCKER not in machine.executors:
        hint = "Start the engine, and let this user reach its socket (group docker)."
        why = f"{machine.no_docker} So no jobs in images run here."
        notes.append(Problem("no-docker", why, hint))
    if machine.disk_free_bytes < LOW_DISK_BYTES:
        free = machine.disk_free_bytes / GIB
        notes.append(Problem("disk-low", f"Only {free:.1f} GiB of disk are free for jobs."))
    if os.getuid() == 0 and ExecutorKind.PROCESS in machine.executors:
        why = "The agent is root: a process that somebody else submits can change the machine."
        notes.append(Problem("as-root", why, "Run it as a user, or start it with --no-process."))
    if ExecutorKind.PROCESS in machine.executors and (why := why_no_masks()):
        what = f"Processes that others submit reach the sockets of this user. {why}"
        notes.append(Problem("no-masks", what, HINT))
    if not machine.gpus:
        notes.append(Problem("no-gpu", "No GPU was found: jobs that ask for one go elsewhere."))
    return notes


def shape(found: Checkup) -> dict[str, object]:
    """The JSON of `dstack-runner check`."""
    machine = found.machine
    return {
        "schema": "dstack.check/v1",
        "ok": not found.problems,
        "cpus": machine.cpus,
        "memory_bytes": machine.memory_bytes,
        "memory_free_bytes": machine.memory_free_bytes,
        "disk_free_bytes": machine.disk_free_bytes,
        "gpus": [gpu_shape(gpu) for gpu in machine.gpus],
        "executors": sorted(kind.value for kind in machine.executors),
        "pythons": list(machine.pythons),
        "isolation": {kind.value: level.value for kind, level in machine.isolation.items()},
        "problems": [_problem(each) for each in found.problems],
        "notes": [_problem(each) for each in found.notes],
    }


def _problem(problem: Problem) -> dict[str, str]:
    return {"code": problem.code, "message": problem.message, "hint": problem.hint}


def isolation_text(machine: Machine) -> str:
    """How jobs are kept from the machine, for people."""
    levels = sorted(machine.isolation.items(), key=lambda one: one[0].value)
    return ", ".join(f"{kind.value} {level.value}" for kind, level in levels)


def told(found: Checkup) -> str:
    """The same for people."""
    machine = found.machine
    lines = [
        f"cpus:   {machine.cpus}",
        f"memory: {machine.memory_bytes / GIB:.1f} GiB, {machine.memory_free_bytes / GIB:.1f} free",
        f"disk:   {machine.disk_free_bytes / GIB:.1f} GiB free",
        f"jobs as: {', '.join(sorted(kind.value for kind in machine.executors)) or 'none'}",
        f"isolation: {isolation_text(machine) or 'none'}",
        f"python: {', '.join(machine.pythons) or 'none'}",
        *(gpu_line(gpu) for gpu in machine.gpus),
    ]
    for label, each in [
        *(("problem", each) for each in found.problems),
        *(("note", each) for each in found.notes),
    ]:
        lines.append(f"{label}: {each.message}")
        lines += [f"  fix: {line}" for line in each.hint.splitlines()]
    return "\n".join(lines)
