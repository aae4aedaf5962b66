"""Lets whoever submitted a job to what it listens on, and in beside it, and nobody else."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager

from dstack_agent.executor import container_sshd
from dstack_agent.executor.container import working_dir
from dstack_agent.executor.listening import Spot
from dstack_agent.executor.port import Visit
from dstack_agent.executor.ports import noted_ports
from dstack_agent.jobs.chronicle import Chronicle, Followed
from dstack_agent.jobs.workshop import Workshop
from dstack_agent.records import Accepted
from dstack_mesh.faults import Forbidden, Invalid, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.machine import ExecutorKind
from dstack_mesh.user import user_name
from dstack_scheduler.app import App, Login
from dstack_scheduler.asker import Asker
from dstack_scheduler.errand import Errand
from dstack_scheduler.job import JobKey, JobState

_OPEN = frozenset({JobState.RUNNING, JobState.STOPPING})
_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0")


@frozen
class Doors:
    """What an attempt has to be opened.

    Attributes:
        spots: Where each port is reached now; None for one that the job does not listen on.
        hosts: Names under which the job's own words may have its machine.
        on_machine: The ports are the machine's own, and not those of a container.
        login: Whom its SSH server lets in; None without one.
    """

    key: JobKey
    ports: tuple[int, ...]
    spots: tuple[Spot | None, ...]
    apps: tuple[App, ...]
    token: str
    hosts: tuple[str, ...]
    on_machine: bool
    login: Login | None = None


@frozen
class Doorkeeper:
    """Knows the jobs of one agent.

    Attributes:
        follow: Finds an attempt. Raises Missing.
        names: What this machine is called.
        connected: Whoever is connected to a job keeps it from being idle while the block runs.
    """

    workshop: Workshop
    follow: Callable[[JobKey], Followed]
    names: Callable[[], tuple[str, ...]]
    connected: Callable[[JobKey], AbstractContextManager[None]]

    def admit(self, key: JobKey, asker: Asker) -> tuple[JobKey, Chronicle]:
        """The attempt, and what it tells of its end; attempt 0 is the newest.

        Raises:
            Missing: This agent knows no such job.
            Forbidden: Somebody else submitted it.
            Refused: It does not run.
        """
        accepted = self.workshop.records.find(key)
        if asker.peer_id not in persons_of(accepted):
            raise Forbidden(
                "This job is somebody else's.",
                "Only whoever submitted a job gets in, and at what it listens on.",
                code="not-your-run",
            )
        chronicle = self.follow(accepted.key).chronicle
        if not is_open(chronicle):
            why = "Its apps are there, and it is entered, while it does."
            raise Refused("The job does not run.", why, "", "shut")
        return accepted.key, chronicle

    @asynccontextmanager
    async def visit(self, key: JobKey, errand: Errand) -> AsyncGenerator[Visit]:
        """A command beside an attempt; nothing is left of it at the end of the block.

        Raises:
            Refused: Nobody gets in.
        """
        accepted = self.workshop.records.find(key)
        executor = self.workshop.executors[accepted.spec.executor]
        with self.connected(key):
            async with executor.visit(self.workshop.folder(accepted), errand) as visit:
                yield visit

    async def doors(self, key: JobKey) -> Doors:
        """What an attempt has that may be opened now."""
        accepted = self.workshop.records.find(key)
        folder = self.workshop.folder(accepted)
        executor = self.workshop.executors[accepted.spec.executor]
        ports = await asyncio.to_thread(noted_ports, folder)
        apps = tuple(app for app in accepted.spec.apps if app.port < len(ports))
        has_token = any(app.token or app.ssh for app in apps)
        token = await asyncio.to_thread(self.workshop.token, accepted.key) if has_token else ""
        spots = await executor.spots(folder, ports)
        on_machine = accepted.spec.executor is ExecutorKind.PROCESS
        hosts = (*_LOCAL, *self.names())
        login = self._login(accepted) if any(app.ssh for app in apps) else None
        return Doors(accepted.key, ports, spots, apps, token, hosts, on_machine, login)

    def _login(self, accepted: Accepted) -> Login:
        spec = accepted.spec
        if spec.executor is ExecutorKind.DOCKER:
            return Login(container_sshd.USER, str(working_dir(spec)))
        return Login(user_name(), str(self.workshop.places(accepted).start))

    async def spot(self, key: JobKey, index: int) -> Spot:
        """Where one port of an attempt is reached now.

        Raises:
            Invalid: The job did not declare it.
            Refused: The job does not listen on it.
        """
        accepted = self.workshop.records.find(key)
        folder = self.workshop.folder(accepted)
        ports = await asyncio.to_thread(noted_ports, folder)
        if index >= len(ports):
            raise Invalid("The job has no such port.", f"It declared {len(ports)}.", code="no-port")
        executor = self.workshop.executors[accepted.spec.executor]
        (spot,) = await executor.spots(folder, (ports[index],))
        if spot is None:
            raise Refused(f"The job does not listen on port {ports[index]}.", code="not-listening")
        return spot


def persons_of(accepted: Accepted) -> frozenset[PeerId]:
    """Who may open what a job serves: who submitted it, not who drove it there for them.

    The empty id is the owner of this home. A job of before that is written down has nobody.
    """
    if accepted.given is None:
        return frozenset()
    giver = accepted.given.peer
    if accepted.vouched is None:
        return frozenset({giver})
    signer = accepted.vouched.signer
    return frozenset({signer} if giver else {signer, giver})


def is_open(chronicle: Chronicle) -> bool:
    """Whether a job's commands run."""
    states = chronicle.states()
    return bool(states) and states[-1].state in _OPEN
