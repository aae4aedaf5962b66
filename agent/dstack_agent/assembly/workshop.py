"""The workshop of an agent: what attempts are lived with."""

import os
from collections.abc import Mapping
from pathlib import Path

from dstack_agent.assembly.company import Company
from dstack_agent.assembly.ground import Ground
from dstack_agent.environments.equipping import Equipper
from dstack_agent.environments.keeping import KeptEnvironments
from dstack_agent.executor import record
from dstack_agent.executor.environment import Site, environment_of, free_ports
from dstack_agent.executor.starting import Spare
from dstack_agent.jobs.bringing import Bringer
from dstack_agent.jobs.notes import Notes
from dstack_agent.jobs.workshop import Environment, Workshop
from dstack_agent.peers import Peers
from dstack_agent.records import Accepted
from dstack_agent.self_portrait import SelfPortrait
from dstack_agent.settings import Settings
from dstack_mesh.ids import PeerId
from dstack_mesh.machine import Gpu
from dstack_mesh.user import user_home
from dstack_scheduler.job import JobSpec
from dstack_scheduler.policy import Network


def workshop_of(ground: Ground, company: Company, notes: Notes, spare: Spare) -> Workshop:
    """Makes it of what is open and of who is known."""
    start, memory, portrait = ground.start, ground.memory, company.portrait
    settings, word = start.settings, start.word
    executors = start.ports.executors(settings, ground.wake, portrait.peer_id, notes, spare)
    home = user_home() or settings.home.root
    return Workshop(
        jobs=settings.home.jobs,
        journal_name=record.JOURNAL,
        records=memory.records,
        ledger=memory.ledger,
        executors={executor.kind: executor for executor in executors},
        store=memory.store,
        bringer=bringer_of(company.peers, portrait.peer_id),
        wake=ground.wake,
        clock=start.clock,
        machine=portrait.inventory.read,
        environment=environment(portrait),
        allowed=(home,),
        closed=settings.home.root,
        user_home=home,
        equipper=Equipper(kept_environments(settings)),
        limited=lambda spec: word.terms().limited(spec)[0],
        network=lambda: word.in_force.policy.network is Network.BRIDGE,
        is_own=(lambda accepted: True) if settings.private else came_from_here,
    )


def kept_environments(settings: Settings) -> KeptEnvironments:
    """What was installed for jobs of this home."""
    home = settings.home
    return KeptEnvironments(home.environments, home.jobs, settings.max_environments_bytes)


def bringer_of(peers: Peers, ourselves: PeerId) -> Bringer:
    """Brings a job's inputs from where they lie."""
    return Bringer(peers.here, peers.bring, ourselves)


def came_from_here(accepted: Accepted) -> bool:
    """Whether a job came from a command of this home, and not from a peer or a driver."""
    return accepted.given is not None and not accepted.given.peer


def environment(portrait: SelfPortrait) -> Environment:
    """Makes the environments of jobs."""

    def of(spec: JobSpec, folder: Path, gpus: tuple[Gpu, ...]) -> Mapping[str, str]:
        site = Site(portrait.name, portrait.host, free_ports(spec.ports))
        return environment_of(spec, gpus, site, folder, os.environ)

    return of
