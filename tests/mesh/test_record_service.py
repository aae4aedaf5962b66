"""Records between agents over the real network stack, and what becomes of frames that are wrong."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from dstack_agent.hearsay import Hearsay
from dstack_agent.pulse import Pulse
from dstack_agent.servicers import records as servicer
from dstack_agent.servicers.records import Gossiping, RecordServicer
from dstack_agent.servicers.resting import Rests
from dstack_mesh.faults import Busy, Forbidden, Invalid, TooLate
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.records.record import Delta
from dstack_mesh.records.replica import Bounds
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.statement import Revoke
from dstack_mesh.v1 import records_pb2 as pb
from dstack_mesh.v1 import records_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member, judge
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.records import FRAME_BYTES, GrpcRecordPeer, frames
from dstack_mesh.wire.server import listen_tcp, make_server
from support.eventually import eventually_async
from support.gossiping import CLOCK, Agent, agent, client, push, stub, whole, word
from support.meshes import Mesh, member
from support.saying import say


async def test_what_one_writes_is_soon_known_to_all(mesh: Mesh, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        homes = [mesh.admit(tmp_path / f"{n}") for n in range(4)]
        agents = [await stack.enter_async_context(agent(home)) for home in homes]
        for one in agents:
            one.meet(*agents)
            await one.book.write([word("card")])

        async def alike() -> bool:
            return all(a.shown() == agents[0].shown() and len(a.shown()) == 4 for a in agents)

        await eventually_async(alike, within=5)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await agents[0].book.write([word("run", b"new")])

        async def known() -> bool:
            return all((agents[0].book.writer, "run") in one.shown() for one in agents)

        await eventually_async(known, within=5)
        assert loop.time() - began <= 2


async def test_who_is_revoked_meanwhile_ends_nobodys_gossip(mesh: Mesh, tmp_path: Path) -> None:
    lost, third = mesh.admit(tmp_path / "lost"), mesh.admit(tmp_path / "third")
    say(mesh, Revoke(member(lost).peer_id))
    async with agent(mesh.root) as ours, agent(lost) as out, agent(third, gossips=False) as other:
        ours.meet(out, other)  # as long as nobody looked again
        for number in range(3):
            await ours.book.write([word(f"{number}")])

            async def told(key: str = f"{number}") -> bool:
                return (ours.book.writer, key) in other.shown()

            await eventually_async(told, within=5)
        assert not out.shown()


async def test_a_large_stream_travels_in_small_frames(writer: Agent, quiet: Agent) -> None:
    await writer.book.write([word(f"{n}", bytes([n % 256]) * 40_000) for n in range(60)])
    cut = list(frames(whole(writer)))
    assert len(cut) > 30
    assert all(frame.ByteSize() <= FRAME_BYTES for frame in cut)
    received = await client(writer, quiet).push([whole(writer)])
    assert (received.news, received.behind) == (1, False)
    assert quiet.shown() == writer.shown()


async def test_an_exchange_that_is_cut_off_is_begun_again_with_what_is_missing(
    writer: Agent, quiet: Agent, mesh: Mesh, tmp_path: Path
) -> None:
    await quiet.book.write([word("small")])
    async with agent(mesh.admit(tmp_path / "third"), gossips=False) as third:
        await third.book.write([word(f"{n}", bytes(40_000)) for n in range(40)])
        await client(third, quiet).push([whole(third)])
    taken = 0
    for _ in range(2):
        coming = client(writer, quiet).exchange(writer.book.versions(), writer.book)
        async for each in coming:
            if isinstance(each, Delta):
                await writer.book.take(each, None)
                taken += 1
                break  # cut off after the first whole stream
        await coming.aclose()
    assert taken == 2
    assert writer.shown() == quiet.shown()


async def test_a_stream_that_cannot_be_taken_holds_up_no_other(
    writer: Agent, mesh: Mesh, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = mesh.admit(tmp_path / "narrow")
    async with (
        agent(mesh.admit(tmp_path / "third"), gossips=False) as third,
        agent(narrow, bounds=Bounds(records=1)) as reader,
    ):
        await third.book.write([word("a"), word("b")])  # the smallest: it is brought first
        await writer.book.write([word("c", bytes(40_000))])
        await client(third, writer).push([whole(third)])
        await reader.book.write([word("ours")])
        received = await client(writer, reader).push(writer.book.lacking({}))
        assert (received.news, received.behind) == (1, False)
        await writer.book.write([word("c", bytes(30_000))])
        with caplog.at_level(logging.WARNING):
            reader.meet(writer)

            async def both_ways() -> bool:
                heard = reader.shown().get((writer.book.writer, "c")) == bytes(30_000)
                return heard and (reader.book.writer, "ours") in writer.shown()

            await eventually_async(both_ways, within=5)
        assert third.book.writer not in reader.book.streams
    assert sum(third.book.writer in line for line in caplog.messages) == 1


async def test_who_writes_too_slowly_is_left(
    writer: Agent, quiet: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "STEP_SECONDS", 0.2)

    async def slow() -> AsyncGenerator[pb.RecordServicePushRequest]:
        await asyncio.sleep(5)
        yield pb.RecordServicePushRequest()

    with pytest.raises(TooLate), translated("ws"):
        await stub(writer, quiet).Push(slow(), timeout=10)


async def test_who_reads_too_slowly_is_left(
    writer: Agent, quiet: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "STEP_SECONDS", 0.5)
    await quiet.book.write([word(f"{n}", bytes(40_000)) for n in range(150)])
    call = stub(writer, quiet).Exchange(pb.RecordServiceExchangeRequest(), timeout=20)
    await asyncio.sleep(2)  # reads nothing: what fits into the network's buffers is sent

    async def read_all() -> None:
        async for _ in call:
            pass

    with pytest.raises(TooLate), translated("ws"):
        await read_all()


async def test_one_peer_has_few_calls_at_a_time(writer: Agent, quiet: Agent) -> None:
    hold = asyncio.Event()

    async def held(sent: Sequence[pb.RecordFrame]) -> AsyncGenerator[pb.RecordServicePushRequest]:
        for frame in sent:
            yield pb.RecordServicePushRequest(frame=frame)
        await hold.wait()

    async def open_call(key: str) -> "grpc.aio.StreamUnaryCall[Any, Any]":
        """A call that is served and does not end: what it brought is there."""
        await writer.book.write([word(key)])
        call = stub(writer, quiet).Push(held(list(frames(whole(writer)))), timeout=10)

        async def served() -> bool:
            return (writer.book.writer, key) in quiet.shown()

        await eventually_async(served, within=5)
        return call

    calls = [await open_call(str(number)) for number in range(servicer.MOST_OF_ONE)]
    with pytest.raises(Busy):
        await push(writer, quiet)
    hold.set()
    assert [(await call).news for call in calls] == [1] * servicer.MOST_OF_ONE
    assert (await push(writer, quiet)).news == 0  # there is room again


async def test_a_question_that_is_too_long_is_refused(writer: Agent, quiet: Agent) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    writers = [f"{a}{b}{c}{'a' * 29}" for a in "ab" for b in letters for c in letters]
    for known in (["no writer"], writers):
        request = pb.RecordServiceExchangeRequest(
            known=[pb.StreamVersion(writer=one, seq=1) for one in known]
        )
        with pytest.raises(Invalid), translated("ws"):
            async for _ in stub(writer, quiet).Exchange(request, timeout=5):
                pass


@dataclass
class Insisting(rpc.RecordServiceServicer):
    """Says what it was told to say, again and again."""

    says: tuple[pb.RecordServiceExchangeResponse, ...]

    async def Exchange(
        self, request: pb.RecordServiceExchangeRequest, context: object
    ) -> AsyncGenerator[pb.RecordServiceExchangeResponse]:
        while True:
            for one in self.says:
                yield one


def known_response() -> pb.RecordServiceExchangeResponse:
    return pb.RecordServiceExchangeResponse(known=pb.StreamVersions())


async def test_how_far_a_peer_is_comes_once_and_first(
    mesh: Mesh, tmp_path: Path, writer: Agent
) -> None:
    """Said again and again, it would cost whoever asks memory without a bound."""
    await writer.book.write([word("a")])
    [frame] = frames(whole(writer))
    stream = pb.RecordServiceExchangeResponse(frame=frame)
    home = mesh.admit(tmp_path / "insisting")
    for says in ((known_response(),), (stream, known_response())):
        server = make_server()
        insisting = Insisting(says)  # pyright: ignore[reportAbstractUsage]
        rpc.add_RecordServiceServicer_to_server(insisting, server)
        port = listen_tcp(server, member(home), "127.0.0.1", 0)
        await server.start()
        channel = writer.channels.to_peer(member(home).peer_id, Address(f"127.0.0.1:{port}"))

        async def ask_all(channel: grpc.aio.Channel = channel) -> None:
            async with asyncio.timeout(5):
                async for _ in GrpcRecordPeer(channel, "ws").exchange({}, writer.book):
                    pass

        with pytest.raises(Invalid):
            await ask_all()
        await server.stop(0)


async def test_a_reader_asks_and_brings_nothing(quiet: Agent, mesh: Mesh, tmp_path: Path) -> None:
    home = mesh.admit(tmp_path / "reader", role=Role.READER)
    async with agent(home, gossips=False) as reader:
        await quiet.book.write([word("a")])
        coming = client(reader, quiet).exchange({}, reader.book)
        assert await anext(coming) == quiet.book.versions()
        await coming.aclose()
        with pytest.raises(Forbidden):
            await push(reader, quiet)


async def test_who_takes_no_jobs_holds_up_nobody_who_does(quiet: Agent) -> None:
    """Readers have nothing to tell; many of them together would end everybody's gossip."""
    hearsay = Hearsay(quiet.book, Pulse(lambda: [], CLOCK), CLOCK)
    serving = RecordServicer(Gossiping(quiet.book, hearsay, lambda peer: None), Rests())

    def begun_by(number: int, role: Role) -> AbstractContextManager[PeerId | None]:
        call = cast("Any", object())
        judge(call, Member(PeerId(f"{number:032d}"), role))
        return serving._counted(call)  # pyright: ignore[reportPrivateUsage]

    with ExitStack() as stack:
        for number in range(servicer.MOST_OF_LISTENERS):
            stack.enter_context(begun_by(number, Role.READER))
        with pytest.raises(Busy):
            stack.enter_context(begun_by(98, Role.SUBMITTER))
        stack.enter_context(begun_by(99, Role.RUNNER))
    with begun_by(98, Role.SUBMITTER):
        pass  # there is room again
