"""Leads ports of this machine to those of one attempt, wherever that runs."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

from dstack_cli.forwarding.links import Link
from dstack_cli.forwarding.local_port import bind_local
from dstack_mesh.faults import MeshError, Unreachable
from dstack_scheduler.app import App
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire.tunnel import Carriage, Offered, TunnelClient

AGAIN_SECONDS = 0.5
TRIES = 40
"""For a connection that finds the way to the agent broken; those that went over it are broken."""


class Forward:
    """The ports of one attempt. Use `running` around everything else.

    Args:
        dial: Finds the agent as it is reached now; None while it does not answer.
        is_here: The agent is on this machine, so that ports of processes need no tunnel; SSH has
            one all the same, for the agent to know that somebody is in.
    """

    def __init__(
        self, key: JobKey, dial: Callable[[], Awaitable[TunnelClient | None]], is_here: bool
    ) -> None:
        self.key = key
        self.links: dict[int, Link] = {}
        self._dial = dial
        self._is_here = is_here
        self._carriage: Carriage | None = None
        self._connecting = asyncio.Lock()
        self._servers: list[asyncio.Server] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._doing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Forwards until the end of the block; connections that are open then are broken."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                yield
            finally:
                for server in self._servers:
                    server.close()
                for task in list(self._doing):
                    task.cancel()

    async def offered(self) -> Offered:
        """What the attempt has now. Raises MeshError."""
        client = await self._dial()
        if client is None:
            raise Unreachable("The agent does not answer.", code="agent-away")
        return await client.apps(self.key)

    async def lead(self, offered: Offered) -> tuple[Link, ...]:
        """Leads to every app whose port the job listens on by now; returns the new links.

        Raises:
            Refused: A port of this machine that the workflow names is in use.
        """
        made: list[Link] = []
        for app in offered.apps:
            port = offered.ports[app.port]
            if port in self.links or not offered.listening[app.port]:
                continue
            local = port
            if not (self._is_here and offered.on_machine and _as_it_is(app, port)):
                bound = bind_local(app.local or port, exactly=bool(app.local))
                local = bound.getsockname()[1]
                await self._serve(bound, app.port)
            token = offered.token if app.token or app.ssh else ""
            login = offered.login if app.ssh else None
            self.links[port] = Link(app, port, local, token, login)
            made.append(self.links[port])
        return tuple(made)

    async def _serve(self, bound: socket.socket, index: int) -> None:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._do(self._carry(index, reader, writer))

        self._servers.append(await asyncio.start_server(accepted, sock=bound))

    async def _carry(
        self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carries a connection to its end; as long as nothing of it was read, it is tried again."""
        try:
            await self._carry_anyhow(index, reader, writer)
        finally:
            writer.close()

    async def _carry_anyhow(
        self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for _ in range(TRIES):
            carriage = self._carriage
            try:
                if carriage is None:
                    carriage = await self._carriage_now()
                await carriage.carry(index, reader, writer)
            except Unreachable:
                if carriage is self._carriage:
                    self._carriage = None
                await asyncio.sleep(AGAIN_SECONDS)
            except (MeshError, OSError, ExceptionGroup):
                return
            else:
                return

    async def _carriage_now(self) -> Carriage:
        """The stream; opened anew if it broke. Raises MeshError."""
        async with self._connecting:
            if self._carriage is None:
                client = await self._dial()
                if client is None:
                    raise Unreachable("The agent does not answer.", code="agent-away")
                self._carriage = await self._open(client)
            return self._carriage

    async def _open(self, client: TunnelClient) -> Carriage:
        opened: asyncio.Future[Carriage] = asyncio.get_running_loop().create_future()
        self._do(self._read(client, opened))
        return await opened

    def _do(self, work: Coroutine[None, None, None]) -> None:
        assert self._tasks is not None
        task = self._tasks.create_task(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _read(self, client: TunnelClient, opened: "asyncio.Future[Carriage]") -> None:
        async with client.carry(self.key) as carriage:
            try:
                await carriage.run(lambda: opened.done() or opened.set_result(carriage))
            except MeshError as error:
                if not opened.done():
                    opened.set_exception(error)
            finally:
                opened.cancel()
                if self._carriage is carriage:
                    self._carriage = None


def _as_it_is(app: App, port: int) -> bool:
    """Whether an app may be reached at the job's own port."""
    return app.local in (0, port) and not app.ssh
