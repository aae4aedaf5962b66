"""The second layer: what an agent says of itself, and the other agents as it knows them."""

import os
from collections.abc import Callable
from pathlib import Path

from dstack_agent.assembly.ground import Ground, Start
from dstack_agent.executor.container_sshd import why_no_containers_sshd
from dstack_agent.executor.pythons import available
from dstack_agent.executor.sshd import why_no_sshd
from dstack_agent.inventory import Inventory
from dstack_agent.inventory.declared import DeclaredSource
from dstack_agent.inventory.docker_socket import docker_socket, docker_trouble
from dstack_agent.inventory.isolation import isolation_of
from dstack_agent.inventory.strangers import lockers
from dstack_agent.jobs.places import folder_of
from dstack_agent.meter import Meter
from dstack_agent.peers import Peers
from dstack_agent.real_cards import RealCards, pids_of_jobs
from dstack_agent.self_portrait import SelfPortrait
from dstack_agent.settings import Settings
from dstack_mesh.discovery.twins import Twins
from dstack_mesh.frozen import frozen
from dstack_mesh.identity import Identity
from dstack_mesh.ids import MeshId
from dstack_mesh.membership.roll import RollCall
from dstack_mesh.membership.vigil import Vigil
from dstack_mesh.version import installed_version
from dstack_mesh.wire.greeter import open_roll_call, open_vigil


@frozen
class Company:
    """The agent among the others. A private one keeps no `vigil`."""

    portrait: SelfPortrait
    vigil: Vigil | None
    roll: RollCall
    twins: Twins
    peers: Peers


def company_of(ground: Ground) -> Company:
    """Makes it; whoever is there is heard of once its parts run."""
    start = ground.start
    portrait = portrait_of(ground)
    vigil = vigil_of(ground, portrait) if start.membership is not None else None
    roll = roll_of(ground, portrait, vigil)
    peers = Peers(
        start.home,
        ground.channels,
        ground.memory.store,
        portrait.card,
        roll.agents,
        may_run=start.members.may_run,
        called=start.members.name,
    )
    return Company(portrait, vigil, roll, twins_of(start, portrait, roll), peers)


def portrait_of(ground: Ground) -> SelfPortrait:
    """What this agent says of itself."""
    start, ledger = ground.start, ground.memory.ledger
    settings, membership = start.settings, start.membership

    def folders() -> list[Path]:
        return [folder_of(settings.home.jobs, lease.key) for lease in ledger.leases()]

    cards = RealCards(folders)
    identity = membership or Identity.load_or_make(settings.home)
    return SelfPortrait(
        peer_id=identity.peer_id,
        mesh_id=membership.mesh_id if membership else MeshId(""),
        name=settings.name,
        version=installed_version(),
        inventory=inventory_of(start, folders, cards),
        ledger=ledger,
        port=ground.port,
        listens_on=settings.host,
        roster=start.members.digest,
        measure=Meter(folders, lambda: ledger.changes.strokes, start.clock, cards.loads).read,
    )


def inventory_of(start: Start, folders: Callable[[], list[Path]], cards: RealCards) -> Inventory:
    """What this machine has; `folders` are those of the jobs that run."""
    settings = start.settings
    return Inventory(
        settings.home.jobs,
        start.clock,
        sources=(declared_of(settings, folders), cards),
        docker=lambda: docker_trouble(docker_socket()),
        pythons=available,
        allow_process=settings.allow_process,
        isolation=lambda: isolation_of(docker_socket()),
        interruptible=settings.interruptible,
        sshd=lambda: (
            *(why_no_sshd(), why_no_sshd(walled=not settings.private)),
            why_no_containers_sshd(),
        ),
    )


def declared_of(settings: Settings, folders: Callable[[], list[Path]]) -> DeclaredSource:
    """Simulated cards, which real processes use by locking a file in the home."""
    home = settings.home
    users = lockers(home.sockets / "cards")
    return DeclaredSource(home.root, settings.gpus, users, lambda: pids_of_jobs(folders()))


def vigil_of(ground: Ground, portrait: SelfPortrait) -> Vigil:
    """Watches which agents of the mesh are alive."""
    word = ground.start.word
    return open_vigil(ground.channels, portrait.card, lambda: word.state, ground.start.clock)


def roll_of(ground: Ground, portrait: SelfPortrait, vigil: Vigil | None) -> RollCall:
    """Keeps track of the other agents of the mesh."""
    settings = ground.start.settings
    return open_roll_call(
        settings.home,
        ground.channels,
        os.environ,
        seeds=settings.seeds,
        card=portrait.card,
        port=portrait.port,
        mdns=settings.mdns and portrait.port is not None,
        vigil=vigil,
    )


def twins_of(start: Start, portrait: SelfPortrait, roll: RollCall) -> Twins:
    """Notices a second machine with this agent's id."""
    return Twins(start.home, portrait.card, start.clock, roll.heard)
