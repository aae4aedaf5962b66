"""Whoever is cut off hears why, also while the first message is on its way."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from dstack_mesh.faults import Busy, Forbidden, TooLate
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.book import read_picture
from dstack_mesh.trust.roster.statement import Admit, Revoke
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire import standings
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.server import listen_tcp, make_server
from dstack_mesh.wire.standings import Standings
from support.eventually import eventually_async
from support.meshes import Mesh, member
from support.saying import say
from support.unused_runs import Unused

MESSAGE = pb.AttachResponse(log=pb.LogFrame(data=b"x" * 65536))

Behaviour = Callable[[Any], Awaitable[None]]


class Scripted(Unused):
    """Attach does what the test says."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave

    async def Attach(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: Any
    ) -> None:
        await self._behave(context)


@asynccontextmanager
async def attached(
    mesh: Mesh, home: Home, who: Standings, behave: Behaviour
) -> AsyncGenerator[Callable[[], Any]]:
    """Calls of a member."""
    server, channels = make_server(standings=who), Channels(home)
    rpc.add_RunServiceServicer_to_server(Scripted(behave), server)
    port = listen_tcp(server, mesh.membership, "127.0.0.1", 0)
    await server.start()
    stub = rpc.RunServiceStub(channels.to_unknown(Address(f"127.0.0.1:{port}")))
    try:
        yield lambda: stub.Attach(timeout=30)
    finally:
        await channels.close()
        await server.stop(0)


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.make(tmp_path / "root")


@pytest.fixture
def lost(mesh: Mesh, tmp_path: Path) -> Home:
    """A member that is in the root's roster."""
    home = mesh.admit(tmp_path / "lost")
    say(mesh, Admit(member(home).peer_id, Role.RUNNER, "lost", "test"))
    return home


async def read_on(call: Any) -> None:
    """Reads whatever still comes. Raises what the call ended with."""
    async with asyncio.timeout(10):
        while await call.read() is not grpc.aio.EOF:
            pass


async def test_whoever_is_revoked_within_the_first_message_hears_it(mesh: Mesh, lost: Home) -> None:
    before = read_picture(mesh.root, mesh.membership.mesh_id)
    say(mesh, Revoke(member(lost).peer_id))
    after = read_picture(mesh.root, mesh.membership.mesh_id)
    who = Standings(lambda: before)

    async def behave(context: Any) -> None:
        # Before the loop looks whether the message has left.
        asyncio.get_running_loop().call_soon(who.changed, after)
        await context.write(MESSAGE)

    async with attached(mesh, lost, who, behave) as attach:
        with pytest.raises(Forbidden) as ended, translated("root"):
            await read_on(attach())
    assert ended.value.code == "revoked"


async def test_a_deadline_within_the_first_message_is_told(mesh: Mesh, lost: Home) -> None:
    async def behave(context: Any) -> None:
        try:
            async with asyncio.timeout(0):
                await context.write(MESSAGE)
        except TimeoutError as error:
            raise TooLate("The reader took nothing.") from error

    async with attached(mesh, lost, standings.of_nobody(), behave) as attach:
        with pytest.raises(TooLate, match="took nothing"), translated("root"):
            await read_on(attach())


async def test_who_never_reads_has_a_call_open_until_they_leave(
    mesh: Mesh, lost: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standings, "MOST_OPEN", 1)
    given_up = asyncio.Event()

    async def behave(context: Any) -> None:
        try:
            while True:
                async with asyncio.timeout(0.2):
                    await context.write(MESSAGE)
        except TimeoutError as error:
            given_up.set()
            raise TooLate("The reader took nothing.") from error

    async with attached(mesh, lost, standings.of_nobody(), behave) as attach:
        mute = attach()
        await mute.read()
        await asyncio.wait_for(given_up.wait(), 10)
        with pytest.raises(Busy, match="too many calls"), translated("root"):
            await read_on(attach())
        mute.cancel()

        async def is_free() -> bool:
            call = attach()
            try:
                with translated("root"):
                    return isinstance(await call.read(), pb.AttachResponse)
            except Busy:
                return False
            finally:
                call.cancel()

        await eventually_async(is_free, within=10)


async def test_a_message_waits_for_one_that_was_left_before(mesh: Mesh, lost: Home) -> None:
    sent, left = 0, asyncio.Event()

    async def behave(context: Any) -> None:
        nonlocal sent
        while not left.is_set():
            sent += 1
            try:
                async with asyncio.timeout(0.2):
                    await context.write(MESSAGE)
            except TimeoutError:
                left.set()
        await context.write(MESSAGE)
        sent += 1

    async with attached(mesh, lost, standings.of_nobody(), behave) as attach:
        call, read = attach(), 0
        await asyncio.wait_for(left.wait(), 10)
        async with asyncio.timeout(10):
            while await call.read() is not grpc.aio.EOF:
                read += 1
    assert read == sent
