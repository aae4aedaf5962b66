"""Makes the larger parts of an agent from its settings and from each other; `main` says when."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from dstack_agent.executor import record
from dstack_agent.executor.docker import DockerExecutor
from dstack_agent.executor.environment import Site, environment_of, free_ports
from dstack_agent.executor.port import Executor
from dstack_agent.executor.process import ProcessExecutor
from dstack_agent.executor.pythons import available
from dstack_agent.executor.starting import Spare
from dstack_agent.inventory import Inventory
from dstack_agent.inventory.declared import DeclaredSource
from dstack_agent.inventory.docker_socket import DEFAULT_SOCKET, docker_socket, docker_trouble
from dstack_agent.inventory.isolation import isolation_of
from dstack_agent.inventory.strangers import lockers
from dstack_agent.jobs.bringing import Bringer
from dstack_agent.jobs.notes import Notes
from dstack_agent.jobs.places import folder_of
from dstack_agent.jobs.supervisor import Supervisor
from dstack_agent.jobs.workshop import Environment, Workshop
from dstack_agent.logs.wake import Wake
from dstack_agent.members import Members
from dstack_agent.memory import Memory
from dstack_agent.owner.policy_file import PolicyFile
from dstack_agent.owner.reclaim import Reclaim
from dstack_agent.owner.reclaiming import Reclaiming
from dstack_agent.owner.usage import used_bytes
from dstack_agent.owner.word import OwnersWord
from dstack_agent.peers import Peers
from dstack_agent.real_cards import RealCards, pids_of_jobs
from dstack_agent.self_portrait import SelfPortrait
from dstack_agent.settings import Settings
from dstack_mesh.clock import SystemClock
from dstack_mesh.identity import Identity
from dstack_mesh.ids import MeshId
from dstack_mesh.machine import Gpu
from dstack_mesh.trust.membership import Membership
from dstack_mesh.user import user_home
from dstack_mesh.version import installed_version
from dstack_scheduler.fit import Policy
from dstack_scheduler.job import JobKey, JobSpec
from dstack_scheduler.policy import Network

CLOCK = SystemClock()


def word_of(settings: Settings) -> OwnersWord:
    """What the owner allows and whether she lends now. Raises PolicyBroken."""
    home = settings.home
    start = Policy(settings.allow_process, settings.max_jobs, settings.name)
    file = PolicyFile(home.policy, start)
    file.load()
    used = partial(used_bytes, (home.jobs, home.chunks))
    return OwnersWord(file, home.state / "owner.json", CLOCK, used)


def portrait_of(
    settings: Settings,
    membership: Membership | None,
    memory: Memory,
    port: int | None,
    members: Members,
) -> SelfPortrait:
    """What this agent says of itself."""

    def folders() -> list[Path]:
        return [folder_of(settings.home.jobs, lease.key) for lease in memory.ledger.leases()]

    inventory = Inventory(
        settings.home.jobs,
        CLOCK,
        sources=(declared_of(settings, folders), RealCards(folders)),
        docker=lambda: docker_trouble(docker_socket()),
        pythons=available,
        allow_process=settings.allow_process,
        isolation=lambda: isolation_of(docker_socket()),
    )
    identity = membership or Identity.load_or_make(settings.home)
    return SelfPortrait(
        peer_id=identity.peer_id,
        mesh_id=membership.mesh_id if membership else MeshId(""),
        name=settings.name,
        version=installed_version(),
        inventory=inventory,
        ledger=memory.ledger,
        port=port,
        listens_on=settings.host,
        roster=members.digest,
    )


def declared_of(settings: Settings, folders: Callable[[], list[Path]]) -> DeclaredSource:
    """Simulated cards, which real processes use by locking a file in the home."""
    home = settings.home
    users = lockers(home.sockets / "cards")
    return DeclaredSource(home.root, settings.gpus, users, lambda: pids_of_jobs(folders()))


def reclaiming_of(
    memory: Memory, portrait: SelfPortrait, supervisor: Supervisor, word: OwnersWord
) -> Reclaiming:
    """Gives cards back to whoever else uses them, where the policy says so."""
    return Reclaiming(
        cards=portrait.inventory.look_at_cards,
        leases=memory.ledger.leases,
        changes=memory.ledger.changes,
        policy=lambda: word.in_force.policy,
        take_back=supervisor.take_back,
        core=Reclaim(portrait.name),
    )


def workshop_of(
    settings: Settings,
    memory: Memory,
    peers: Peers,
    portrait: SelfPortrait,
    wake: Wake,
    notes: Notes,
    spare: Spare,
    word: OwnersWord,
) -> Workshop:
    """What attempts are lived with."""
    engine = docker_socket() or DEFAULT_SOCKET
    executors: list[Executor] = [
        ProcessExecutor(wake.path, settings.max_log_bytes, spare),
        DockerExecutor(
            engine,
            wake.path,
            portrait.peer_id,
            notes.say,
            log_bytes=settings.max_log_bytes,
            shut=settings.home.closed,
        ),
    ]
    home = user_home() or settings.home.root
    return Workshop(
        jobs=settings.home.jobs,
        journal_name=record.JOURNAL,
        records=memory.records,
        ledger=memory.ledger,
        executors={executor.kind: executor for executor in executors},
        store=memory.store,
        bringer=Bringer(peers.here, peers.fetch, peers.addresses, portrait.peer_id),
        wake=wake,
        clock=CLOCK,
        machine=portrait.inventory.read,
        environment=environment(portrait),
        allowed=(home,),
        closed=settings.home.root,
        user_home=home,
        limited=lambda spec: word.terms().limited(spec)[0],
        network=lambda: word.in_force.policy.network is Network.BRIDGE,
        is_own=(lambda key: True) if settings.private else owning(memory),
    )


def owning(memory: Memory) -> Callable[[JobKey], bool]:
    """Whether a job came from a command of this home, and not from a peer or a driver."""

    def is_own(key: JobKey) -> bool:
        return any(lease.key == key and not lease.peer for lease in memory.ledger.leases())

    return is_own


def environment(portrait: SelfPortrait) -> Environment:
    """Makes the environments of jobs."""

    def of(spec: JobSpec, folder: Path, gpus: tuple[Gpu, ...]) -> Mapping[str, str]:
        site = Site(portrait.name, portrait.host, free_ports(spec.ports))
        return environment_of(spec, gpus, site, folder, os.environ)

    return of
