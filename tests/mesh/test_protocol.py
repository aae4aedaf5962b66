"""Software that is too old for the mesh gives and takes no new work; everything else goes on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from dstack_mesh.card import PROTOCOL
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Refused
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.statement import Admit, RequireProtocol
from dstack_mesh.v1 import auction_pb2 as pb
from dstack_mesh.v1 import auction_pb2_grpc as rpc
from dstack_mesh.wire.channels import OPTIONS, Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.membership import MembershipClient
from dstack_mesh.wire.protocol import check_protocol, protocol_of, said_of
from dstack_mesh.wire.vetting import may_run
from dstack_scheduler.verdict import Never
from dstack_scheduler.wire.agent import GrpcAgent
from support.machines import question
from support.mesh_agent import MeshAgent, mesh_agent
from support.meshes import Mesh, member
from support.saying import say


class Auction(rpc.AuctionServiceServicer):
    """Answers everything with nothing, and notes which protocol was spoken."""

    def __init__(self) -> None:
        self.spoken: list[int] = []

    async def Ask(self, request: pb.AskRequest, context: Any) -> pb.AskResponse:
        self.spoken.append(protocol_of(context))
        return pb.AskResponse()

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:
        return pb.ReserveResponse()

    async def Commit(self, request: pb.CommitRequest, context: Any) -> pb.CommitResponse:
        return pb.CommitResponse()

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseResponse:
        return pb.ReleaseResponse()


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.founded(tmp_path / "root")


@pytest.fixture
async def calling(mesh: Mesh, tmp_path: Path) -> AsyncIterator[tuple[MeshAgent, grpc.aio.Channel]]:
    home = mesh.admit(tmp_path / "laptop", role=Role.SUBMITTER)
    say(mesh, Admit(member(home).peer_id, Role.SUBMITTER, "laptop", "test"))
    async with mesh_agent(mesh.root, "root", serve=serve) as agent:
        channels = Channels(home)
        yield agent, channels.to_peer(agent.card.peer_id, agent.address)
        await channels.close()


AUCTION = Auction()


def serve(server: grpc.aio.Server) -> None:
    rpc.add_AuctionServiceServicer_to_server(AUCTION, server)


async def required(mesh: Mesh, agent: MeshAgent, protocol: int) -> None:
    say(mesh, RequireProtocol(protocol))
    assert agent.members.keeper is not None
    await agent.members.keeper.look()


async def test_each_call_says_which_protocol_the_caller_speaks(
    calling: tuple[MeshAgent, grpc.aio.Channel],
) -> None:
    stub = rpc.AuctionServiceStub(calling[1])
    AUCTION.spoken.clear()
    await stub.Ask(pb.AskRequest(), timeout=5)
    assert AUCTION.spoken == [PROTOCOL]


async def test_new_work_is_refused_where_either_side_is_too_old_and_the_rest_goes_on(
    mesh: Mesh, calling: tuple[MeshAgent, grpc.aio.Channel]
) -> None:
    agent, channel = calling
    stub: Any = rpc.AuctionServiceStub(channel)
    new_work = [
        lambda: stub.Ask(pb.AskRequest(), timeout=5),
        lambda: stub.Reserve(pb.ReserveRequest(), timeout=5),
        lambda: stub.Commit(pb.CommitRequest(), timeout=5),
    ]
    await required(mesh, agent, PROTOCOL)
    for call in new_work:
        await call()
    await required(mesh, agent, PROTOCOL + 1)
    for call in new_work:
        with pytest.raises(Refused) as refused, translated("root"):
            await call()
        assert refused.value.code == "protocol-too-old"
        assert "pip install -U" in refused.value.hint
    await stub.Release(pb.ReleaseRequest(), timeout=5)
    await MembershipClient(channel, "root").hello(agent.card)


async def test_a_caller_that_updated_is_heard_by_an_agent_that_is_new_enough() -> None:
    check_protocol(required=2, theirs=2, ours=2)
    for theirs, ours, who in ((1, 2, "caller"), (2, 1, "agent")):
        with pytest.raises(Refused, match=f"software of the {who}"):
            check_protocol(required=2, theirs=theirs, ours=ours)


async def test_an_ask_that_is_refused_for_it_is_a_verdict_with_that_reason(
    mesh: Mesh, calling: tuple[MeshAgent, grpc.aio.Channel], tmp_path: Path
) -> None:
    agent, channel = calling
    await required(mesh, agent, PROTOCOL + 1)
    asked = GrpcAgent(channel, agent.card, False, ChunkStore(tmp_path / "chunks"))
    verdict = (await asked.ask(question())).verdict
    assert isinstance(verdict, Never)
    assert [reason.code for reason in verdict.reasons] == ["protocol-too-old"]


async def test_work_is_offered_to_no_agent_that_is_too_old(
    mesh: Mesh, calling: tuple[MeshAgent, grpc.aio.Channel]
) -> None:
    agent, _ = calling
    known = KnownAgent(agent.card, (agent.address,), "seed", "alive", None)
    assert may_run(agent.members.picture(), known)
    await required(mesh, agent, PROTOCOL + 1)
    assert not may_run(agent.members.picture(), known)


async def test_software_that_says_nothing_speaks_the_first_protocol(
    mesh: Mesh,
    calling: tuple[MeshAgent, grpc.aio.Channel],
    tmp_path: Path,
) -> None:
    agent, _ = calling
    home = mesh.admit(tmp_path / "other", role=Role.SUBMITTER)
    said = ("grpc.primary_user_agent", said_of(PROTOCOL))
    silent = [one for one in OPTIONS if one != said]
    assert len(silent) == len(OPTIONS) - 1
    for options, spoken in (
        (silent, 1),
        ([*silent, ("grpc.primary_user_agent", said_of(7))], 7),
        ([*silent, ("grpc.primary_user_agent", "dstack-mesh/x")], 1),
    ):
        channels = Channels(home, options=options)
        channel = channels.to_peer(agent.card.peer_id, agent.address)
        AUCTION.spoken.clear()
        await rpc.AuctionServiceStub(channel).Ask(pb.AskRequest(), timeout=5)
        assert AUCTION.spoken == [spoken]
        await channels.close()
