"""The lowest layer: what an agent keeps, whom it trusts, and how it hears and calls."""

from contextlib import AsyncExitStack
from functools import partial

from dstack_agent.assembly.ports import Ports
from dstack_agent.audit.auditor import Auditor
from dstack_agent.audit.log import AuditLog
from dstack_agent.logs.wake import Wake
from dstack_agent.members import Members
from dstack_agent.memory import Memory, open_memory
from dstack_agent.owner.policy_file import PolicyFile
from dstack_agent.owner.usage import used_bytes
from dstack_agent.owner.word import OwnersWord
from dstack_agent.settings import Settings
from dstack_mesh.clock import Clock
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.channels import Channels
from dstack_scheduler.fit import Policy


@frozen
class Start:
    """What is known before anything is opened.

    Attributes:
        membership: Of the mesh that is served; None for a private agent.
    """

    settings: Settings
    membership: Membership | None
    members: Members
    word: OwnersWord
    ports: Ports = Ports()

    @property
    def home(self) -> Home:
        return self.settings.home

    @property
    def clock(self) -> Clock:
        return self.ports.clock


@frozen
class Ground:
    """What is open.

    Attributes:
        port: Where members call; None for a private agent.
    """

    start: Start
    port: int | None
    memory: Memory
    channels: Channels
    wake: Wake
    auditor: Auditor


def start_of(settings: Settings, membership: Membership | None, ports: Ports) -> Start:
    """Reads the policy and the roster. Raises PolicyBroken."""
    word = word_of(settings, ports.clock)
    return Start(settings, membership, Members(settings.home, membership), word, ports)


async def open_ground(start: Start, port: int | None, stack: AsyncExitStack) -> Ground:
    """Opens everything; the stack closes it. Raises Refused for files of a newer version."""
    home = start.home
    memory = open_memory(home, start.clock, stack)
    channels = Channels(home, start.members.picture)
    stack.push_async_callback(channels.close)
    wake = await stack.enter_async_context(Wake(home.sockets / "wake.sock"))
    return Ground(start, port, memory, channels, wake, open_auditor(start, stack))


def open_auditor(start: Start, stack: AsyncExitStack) -> Auditor:
    """Opens the audit log, which hears of refused calls from here on."""
    entries = AuditLog(start.home.audit, start.clock.now)
    stack.callback(entries.close)
    word = start.word
    auditor = Auditor(
        entries,
        start.home.state / "audited.json",
        start.clock,
        picture=start.members.picture,
        policy=lambda: word.in_force.text,
        standing=lambda: word.standing,
    )
    start.members.standings.refused = auditor.refused
    return auditor


def word_of(settings: Settings, clock: Clock) -> OwnersWord:
    """What the owner allows and whether she lends now. Raises PolicyBroken."""
    home = settings.home
    policy = Policy(settings.allow_process, settings.max_jobs, settings.name)
    file = PolicyFile(home.policy, policy)
    file.load()
    used = partial(used_bytes, (home.jobs, home.chunks, home.environments))
    return OwnersWord(file, home.state / "owner.json", clock, used)
