"""Every service of an agent, made of the real parts and called without a network.

Nothing that was awarded is carried out: there is no award without a hold that this agent gave, and
what is driven here waits for its end.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import grpc

from dstack_agent.assembly.agent import assemble
from dstack_agent.assembly.ground import open_ground, start_of
from dstack_agent.assembly.ports import Ports
from dstack_agent.driving import MakeDriver
from dstack_agent.executor.port import Executor
from dstack_agent.settings import Settings
from dstack_mesh.home import Home
from dstack_mesh.wire.guard import GuardInterceptor
from dstack_mesh.wire.ownership import open_to, said_by, secret_of
from dstack_mesh.wire.server import add_standard_services
from dstack_scheduler.job import StateChange
from dstack_scheduler.progress import Watcher
from dstack_scheduler.submission import Submission
from support.meshes import member


class Collected(grpc.aio.Server):
    """Stands where servicers expect a server, and keeps their methods."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """What older generated code calls; the same methods come by the other way."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        for name, handler in method_handlers.items():
            self.methods[f"/{service_name}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        raise NotImplementedError

    def add_secure_port(self, address: str, server_credentials: object) -> int:
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self, grace: float | None) -> None:
        raise NotImplementedError

    async def wait_for_termination(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as the class above has it
    ) -> bool:
        raise NotImplementedError


@dataclass(slots=True)
class Context:
    """A call by a member, or by the owner where there is no certificate."""

    certificate: bytes = b""
    written: int = 0
    code: grpc.StatusCode | None = None

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        if not self.certificate:
            return {"transport_security_type": [b"local"]}
        return {
            "transport_security_type": [b"ssl"],
            "ssl_tls_version": [b"TLSv1.3"],
            "x509_pem_cert": [self.certificate],
        }

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self.certificate else (("user-agent", owners_word()),)

    async def write(self, message: object) -> None:
        self.written += 1

    async def abort(self, code: grpc.StatusCode, *details: object) -> None:
        self.code = code
        raise grpc.aio.AbortError

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        """Health says so what it does not know."""


@cache
def owners_word() -> str:
    """What a channel of the owner says, to the agents of this process."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "agent.sock")
        open_to(socket)
        return f"grpc-python-asyncio/1{said_by(secret_of(socket))}"


@dataclass(slots=True)
class Method:
    """One method behind its guard."""

    read: Any
    run: Any
    takes_stream: bool

    async def call(self, messages: Sequence[Any], context: Context) -> grpc.StatusCode | None:
        """Calls it; the status that reached the caller, None for an answer."""
        with suppress(grpc.aio.AbortError):
            await self.run(_each(messages) if self.takes_stream else messages[0], context)
        return context.code


async def _each(messages: Sequence[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


class Bugs(logging.Handler):
    """Keeps what the guard logs of a failure that is no MeshError."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


@asynccontextmanager
async def watched_for_bugs() -> AsyncGenerator[Bugs]:
    """Within it, whatever the guard calls a bug is kept, and no warning is."""
    bugs, logger = Bugs(), logging.getLogger("dstack_mesh.wire.guard")
    logger.addHandler(bugs)
    logging.disable(logging.WARNING)  # who collects them for a report would count as growth
    try:
        yield bugs
    finally:
        logging.disable(logging.NOTSET)
        logger.removeHandler(bugs)


@dataclass(slots=True)
class Waits:
    """A driver of a run that awards nothing."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> StateChange:
        await self.ended.wait()
        raise asyncio.CancelledError

    def stop(self, abort: bool, cause: str) -> None:
        self.ended.set()


def waiting(make: MakeDriver) -> MakeDriver:
    """Makes real drivers, and sends others out in their place."""

    def made(submission: Submission, watcher: Watcher) -> Waits:
        make(submission, watcher)
        return Waits()

    return made


async def guarded(collected: Collected, standings: Any = None) -> dict[str, Method]:
    """The methods behind the guard that a server has."""
    guard, found = GuardInterceptor(standings), dict[str, Method]()
    for name, handler in collected.methods.items():

        async def continuation(details: object, handler: Any = handler) -> Any:
            return handler

        details: Any = _Details(name)
        made = await guard.intercept_service(continuation, details)
        run = made.unary_unary or made.unary_stream or made.stream_unary or made.stream_stream
        found[name] = Method(made.request_deserializer, run, made.request_streaming)
    return found


@dataclass(frozen=True, slots=True)
class _Details:
    method: str


def nothing_is_run(*_: object) -> Sequence[Executor]:
    """Whatever was awarded has nobody to run it."""
    return ()


@asynccontextmanager
async def whole_agent(home: Home) -> AsyncGenerator[dict[str, Method]]:
    """The methods of an agent of a mesh, by their full names. It neither looks for others nor
    calls any.
    """
    settings = Settings(home, "ws-1", host="127.0.0.1", port=0, mdns=False)
    home.prepare()
    start = start_of(settings, member(home), Ports(executors=nothing_is_run, drivers=waiting))
    async with AsyncExitStack() as stack:
        collected = Collected()
        agent = await assemble(await open_ground(start, 1, stack), collected, stack)
        add_standard_services(collected)
        work, keeper, ready = agent.work, start.members.keeper, asyncio.Event()
        assert keeper is not None
        assert agent.invitations is not None
        running = [work.supervisor.run(ready), work.desk.run(), work.driving.run()]
        async with asyncio.TaskGroup() as tasks:
            parts = (*running, agent.invitations.run(), keeper.run())
            started = [tasks.create_task(part) for part in parts]
            await ready.wait()
            try:
                yield await guarded(collected, start.members.standings)
            finally:
                for task in started:
                    task.cancel()


def certificate_of(home: Home) -> bytes:
    """What a member shows."""
    return member(home).certificate_path.read_bytes()
