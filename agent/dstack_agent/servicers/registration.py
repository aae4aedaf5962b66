"""Adds every service of an agent to its server."""

from collections.abc import Callable
from typing import Protocol

import grpc

from dstack_agent.bids import BidDesk
from dstack_agent.jobs.doorkeeper import Doorkeeper
from dstack_agent.owner.desk import OwnersDesk
from dstack_agent.servicers.attach import Wishes
from dstack_agent.servicers.auction import AuctionServicer
from dstack_agent.servicers.evidence import EvidenceServicer, Testimony
from dstack_agent.servicers.membership import Answers, MembershipServicer
from dstack_agent.servicers.owner import OwnerServicer
from dstack_agent.servicers.records import Gossiping, RecordServicer
from dstack_agent.servicers.resting import Rests
from dstack_agent.servicers.roster import RosterServicer
from dstack_agent.servicers.run import Runs, RunServicer
from dstack_agent.servicers.transfer import TransferServicer, add_transfer
from dstack_agent.servicers.tunnel import Hearing, TunnelServicer
from dstack_mesh.clock import Clock
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.v1 import (
    auction_pb2_grpc,
    evidence_pb2_grpc,
    membership_pb2_grpc,
    owner_pb2_grpc,
    records_pb2_grpc,
    roster_pb2_grpc,
    run_pb2_grpc,
    tunnel_pb2_grpc,
)

Server = grpc.aio.Server
"""What services are added to, for whoever need not know more of it."""


class Invitations(Protocol):
    """Serves invitations that the owner makes."""

    async def run(self) -> None: ...


@frozen
class Served:
    """What the services of an agent speak for. A private agent gossips with nobody.

    Attributes:
        hearing: Hears who gets at what a job listens on, and who runs commands beside it.
    """

    answers: Answers
    desk: BidDesk
    wishes: Wishes
    runs: Runs
    owner: OwnersDesk
    testimony: Testimony
    clock: Clock
    doorkeeper: Doorkeeper
    hearing: Hearing
    gossiping: Gossiping | None = None


def add_servicers(server: Server, served: Served) -> None:
    """Adds them; call it before the server starts."""
    rests = Rests()
    membership_pb2_grpc.add_MembershipServiceServicer_to_server(
        MembershipServicer(served.answers, served.clock), server
    )
    auction_pb2_grpc.add_AuctionServiceServicer_to_server(AuctionServicer(served.desk), server)
    run_pb2_grpc.add_RunServiceServicer_to_server(
        RunServicer(served.wishes, served.runs, rests), server
    )
    owner_pb2_grpc.add_OwnerServiceServicer_to_server(OwnerServicer(served.owner), server)
    evidence_pb2_grpc.add_EvidenceServiceServicer_to_server(
        EvidenceServicer(served.testimony, rests), server
    )
    add_transfer(TransferServicer(served.wishes.store), server)
    tunnels = TunnelServicer(served.doorkeeper, served.hearing)
    tunnel_pb2_grpc.add_TunnelServiceServicer_to_server(tunnels, server)
    if served.gossiping is not None:
        records_pb2_grpc.add_RecordServiceServicer_to_server(
            RecordServicer(served.gossiping, rests), server
        )


def add_roster(server: Server, home: Home, keeper: Keeper, clock: Clock) -> None:
    """Adds the service that exchanges what is known of the members."""
    roster_pb2_grpc.add_RosterServiceServicer_to_server(RosterServicer(home, keeper, clock), server)


def add_invitations(
    server: Server,
    home: Home,
    seeds: Callable[[], tuple[Address, ...]],
    host: str,
    keeper: Keeper,
) -> Invitations:
    """Adds the service that makes and serves invitations; its `run` must run."""
    # Loads the library that signs, which an agent outside a mesh does without.
    from dstack_agent.servicers.invitation import InvitationServicer
    from dstack_mesh.v1 import admission_pb2_grpc

    servicer = InvitationServicer(home, seeds, host, keeper)
    admission_pb2_grpc.add_InvitationServiceServicer_to_server(servicer, server)
    return servicer
