"""The table of contents of an agent: everything is made here, started here and stopped here.

Heavy libraries (TLS, multicast, Docker, process lists) are loaded by the parts that need them, when
they need them: a private agent answers within a fraction of a second.
"""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from functools import partial

from dstack_agent.assembly.agent import assemble
from dstack_agent.assembly.ground import Start, open_ground, start_of
from dstack_agent.assembly.ports import Ports
from dstack_agent.idle import leave_when_idle
from dstack_agent.notifying import Notifier
from dstack_agent.servicers.activity import Activity
from dstack_agent.servicers.registration import Server
from dstack_agent.settings import Settings
from dstack_agent.succession import take_home
from dstack_mesh.allocator import give_back
from dstack_mesh.faults import Refused
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.server import add_standard_services, listen_local, listen_tcp, make_server

log = logging.getLogger(__name__)

DRAIN_SECONDS = 0.3
"""How long calls may take to end when the agent stops; streams are cut, readers come back."""


async def run_agent(settings: Settings) -> None:
    """Serves until SIGTERM, SIGINT or, where so set, until idle. Jobs outlive it.

    Raises:
        MeshError: It cannot start, with the reason: no mesh, a broken policy, the port is taken,
            another agent runs.
    """
    membership = membership_of(settings)
    settings.home.prepare()
    start = start_of(settings, membership, Ports())
    stop, notifier, activity = stop_on_signals(), Notifier(), Activity()
    async with AsyncExitStack() as stack:
        server = make_server(activity, standings=start.members.standings)
        port = await listen(start, server, stack)
        agent = await assemble(await open_ground(start, port, stack), server, stack)
        health = add_standard_services(server)
        ready = asyncio.Event()
        parts = [*agent.parts(ready), notifier.run()]
        if settings.idle_seconds is not None:
            quiet = lambda: activity.idle_seconds  # noqa: E731
            parts.append(leave_when_idle(settings.idle_seconds, agent.work.busy, quiet, stop.set))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            await ready.wait()
            await server.start()
            told = f"port {port}" if port else "no port"
            log.info("ready: %s, %s", settings.home.agent_socket, told)
            give_back()
            notifier.ready(f"serves {membership.mesh_name}" if membership else "private")
            await stop.wait()
            notifier.stopping()
            log.info("stopping; jobs go on")
            await agent.company.roll.leave()
            await health.leave()
            await server.stop(DRAIN_SECONDS)
            for task in tasks:
                task.cancel()


def membership_of(settings: Settings) -> Membership | None:
    """The mesh to serve; None for a private agent. Raises Refused outside a mesh."""
    if settings.private:
        return None
    membership = Membership.load(settings.home)
    if membership is None:
        raise Refused(
            "This machine has not joined a mesh yet.",
            f"There is no membership in {settings.home.root}.",
            "dstack-runner join CODE   (a member makes the code: dstack mesh invite)\n"
            "dstack mesh create NAME   (a mesh of your own)\n"
            "dstack-runner start --private   (this machine alone)",
            "not-a-member",
        )
    return membership


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def listen(start: Start, server: Server, stack: AsyncExitStack) -> int | None:
    """Opens the owner's socket, and for members a port, which it returns. Raises Refused.

    From here on the home is this process's; the stack gives it back.
    """
    settings = start.settings
    local = partial(listen_local, server, start.home.agent_socket)
    stack.callback(await take_home(local, start.home.sockets, settings.private))
    if start.membership is None:
        return None
    return listen_tcp(server, start.membership, settings.host, settings.port)
