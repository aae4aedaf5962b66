"""The listener of an invitation.

The listener has a port and a throw-away certificate of its own and exists only while its invitation
lives. It knows no client certificates: whoever calls is a stranger until the invitation's proof.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any
from urllib.parse import unquote

import grpc

from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.discovery.interfaces import own_addresses
from dstack_mesh.discovery.mdns import Announcement, announcing
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.trust.authority import Authority, throw_away_certificate
from dstack_mesh.trust.desk import Desk, DeskEvent, Greeted, Joined, TriedWrong
from dstack_mesh.trust.invite import (
    LONGEST_LIFETIME_SECONDS,
    PUBLIC_CHARACTERS,
    Burned,
    Code,
    Expired,
    Invite,
    Live,
    State,
    Used,
    make_code,
)
from dstack_mesh.trust.invites import InviteBook
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.enrolment import Enrolment
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.scribe import not_allowed
from dstack_mesh.v1 import admission_pb2 as pb
from dstack_mesh.v1 import admission_pb2_grpc as rpc
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.issuing import Hand, check_heeded
from dstack_mesh.wire.roster import open_keeper, scribe_of, within_page
from dstack_mesh.wire.server import bind, make_server
from dstack_mesh.wire.statements import signed_to_wire

INVITABLE = (Role.READER, Role.SUBMITTER, Role.RUNNER, Role.ADMIN)
CALL_SECONDS = 10.0
"""Deadline of each step; the other side may be deriving a key on a slow machine."""

LISTENER_NAME = "mesh-join"
"""The name in the throw-away certificate."""


Watched = DeskEvent | State
"""What a watcher of an invitation is told: events, and at last how it ended."""


@frozen
class Invitation:
    """What the inviter tells the newcomer: a code, and where to say it."""

    code: str
    addresses: tuple[Address, ...]
    expires_at: datetime


class AdmissionServicer(rpc.AdmissionServiceServicer):
    """AdmissionService of one invitation."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def Greet(
        self, request: pb.GreetRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.GreetResponse:
        source = source_of(context.peer())
        greeting = self._desk.greet(
            source, request.invite_id, request.joiner_key, request.joiner_nonce
        )
        return pb.GreetResponse(
            mesh_id=greeting.mesh_id, server_nonce=greeting.nonce, server_proof=greeting.proof
        )

    async def Join(
        self, request: pb.JoinRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.JoinResponse:
        reply = await self._desk.join(
            source_of(context.peer()),
            request.invite_id,
            request.joiner_nonce,
            request.joiner_proof,
            request.certificate_request,
            request.name,
            request.issuer_request,
        )
        return pb.JoinResponse(
            certificate_pem=reply.certificate_pem,
            root_pem=reply.root_pem,
            mesh_name=reply.mesh_name,
            discovery_key=reply.discovery_key,
            seeds=reply.seeds,
            role=reply.role,
            server_proof=reply.proof,
            statements=map(signed_to_wire, within_page(reply.statements)),
            issuer_pem=reply.issuer_pem,
        )


async def ask_invitation(
    channel: grpc.aio.Channel, role: Role, lifetime_seconds: int
) -> Invitation:
    """Has the agent of this home make and serve an invitation. Raises a MeshError."""
    request = pb.InviteRequest(role=role.value, lifetime_seconds=lifetime_seconds)
    with translated("the agent of this home"):
        response = await rpc.InvitationServiceStub(channel).Invite(request, timeout=CALL_SECONDS)
    return Invitation(
        response.code,
        tuple(map(Address, response.addresses)),
        response.expires_at.ToDatetime(UTC),
    )


async def watch_invitation(channel: grpc.aio.Channel, code: str) -> AsyncGenerator[Watched]:
    """What happens to an invitation that the agent of this home serves, until it is over.

    Raises a MeshError, as Refused where the agent is too old to tell.
    """
    request = pb.WatchRequest(invite_id=code[:PUBLIC_CHARACTERS])
    with translated("the agent of this home"):
        async for response in rpc.InvitationServiceStub(channel).Watch(request):
            event = watched_from_wire(response)
            if event is not None:
                yield event


def watched_to_wire(event: Watched) -> pb.WatchResponse:
    match event:
        case Greeted(words):
            return pb.WatchResponse(greeted=pb.Greeted(words=words))
        case TriedWrong(left, source):
            return pb.WatchResponse(tried_wrong=pb.TriedWrong(tries_left=left, source=source))
        case Joined(peer_id, name):
            return pb.WatchResponse(joined=pb.Joined(peer_id=peer_id, name=name))
        case Used():
            return pb.WatchResponse(over=pb.Over(ending=pb.ENDING_USED))
        case Burned():
            return pb.WatchResponse(over=pb.Over(ending=pb.ENDING_BURNED))
        case Expired() | Live():
            return pb.WatchResponse(over=pb.Over(ending=pb.ENDING_EXPIRED))


def watched_from_wire(response: pb.WatchResponse) -> Watched | None:
    """None for what newer software tells."""
    match response.WhichOneof("kind"):
        case "greeted":
            first, second, third, fourth = (*response.greeted.words, "", "", "", "")[:4]
            return Greeted((first, second, third, fourth))
        case "tried_wrong":
            return TriedWrong(response.tried_wrong.tries_left, response.tried_wrong.source)
        case "joined":
            return Joined(PeerId(response.joined.peer_id), response.joined.name)
        case "over":
            return _ENDINGS.get(response.over.ending, Expired())
        case None:
            return None


_ENDINGS: dict[int, State] = {
    pb.ENDING_USED: Used(PeerId("")),
    pb.ENDING_BURNED: Burned(),
    pb.ENDING_EXPIRED: Expired(),
}


def no_seeds() -> tuple[Address, ...]:
    """For an inviter that knows of no agent."""
    return ()


async def serve_invitation(
    home: Home,
    role: Role,
    lifetime_seconds: float,
    on_code: Callable[[Invitation], None],
    *,
    on_event: Callable[[DeskEvent], None] = lambda event: None,
    seeds: Callable[[], tuple[Address, ...]] = no_seeds,
    host: str = "0.0.0.0",
    port: int = 0,
    clock: Clock | None = None,
    authority: Authority | None = None,
    keeper: Keeper | None = None,
    code: Code | None = None,
) -> State:
    """Makes an invitation and serves it until it is used, burned or expired; says which.

    Args:
        home: Holds the mesh's root key, or is an admin's.
        role: What the newcomer becomes.
        lifetime_seconds: At most a day.
        on_code: Called once, when newcomers can join.
        on_event: Told of greetings, wrong codes and the newcomer.
        seeds: Addresses of agents for the newcomer to begin with.
        host: Where to listen.
        port: 0 takes a free one.
        clock: Tells when it expires.
        authority: Signs; the home's by default.
        keeper: The roster; opened from the home by default.
        code: Random by default.

    Raises:
        Refused: This home cannot invite, or the port cannot be opened.
        Forbidden: It was an admin's, or an admin invites an admin.
        Invalid: The role or the lifetime cannot be.
    """
    if role not in INVITABLE or not 0 < lifetime_seconds <= LONGEST_LIFETIME_SECONDS:
        raise Invalid(
            "There is no such invitation.",
            f"Role {role.value}, {lifetime_seconds:g} s; roles are reader, submitter, runner and "
            f"admin, and it lives for at most {LONGEST_LIFETIME_SECONDS} s.",
        )
    clock, code = clock or SystemClock(), code or make_code()
    authority = authority or Authority(home)
    enrolment = await asyncio.to_thread(_enrolment, home, authority, keeper, role)
    authority.until(clock.now())
    key, certificate = throw_away_certificate(clock.now(), timedelta(seconds=lifetime_seconds))
    expires_at = clock.now() + timedelta(seconds=lifetime_seconds)
    invite = Invite(
        code.invite_id,
        authority.membership.mesh_id,
        role,
        expires_at=clock.elapsed() + lifetime_seconds,
    )
    book = InviteBook(home)
    await asyncio.to_thread(book.write, invite, clock.now())
    desk = await asyncio.to_thread(
        Desk,
        authority,
        enrolment,
        book,
        code,
        invite,
        certificate_hash(ssl.PEM_cert_to_DER_cert(certificate.decode())),
        clock,
        seeds,
        on_event,
    )
    server = make_server()
    rpc.add_AdmissionServiceServicer_to_server(AdmissionServicer(desk), server)
    opened = bind(server, host, port, grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    try:
        async with announcing(Announcement.of_invite(code.invite_id, opened)):
            on_code(Invitation(str(code), _addresses(host, opened), expires_at))
            return await desk.ended()
    finally:
        # The reply to the newcomer may still be on its way.
        await server.stop(CALL_SECONDS)


def _enrolment(home: Home, authority: Authority, keeper: Keeper | None, role: Role) -> Enrolment:
    membership = authority.membership
    keeper, scribe = keeper or open_keeper(home, membership), scribe_of(home, membership)
    if role is Role.ADMIN and not authority.is_root:
        raise not_allowed("Inviting an admin")
    check_heeded(Hand(authority, scribe), keeper, "Inviting")
    return Enrolment(keeper, scribe)


def _addresses(host: str, port: int) -> tuple[Address, ...]:
    if host in ("0.0.0.0", "::", ""):
        return own_addresses(port)
    return (Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"),)


def source_of(peer: str) -> str:
    """The address in what gRPC calls a peer, as "ipv4:10.0.0.7:5123"; of IPv6 the network.

    A machine has an IPv6 network of 64 bits for itself, and all addresses in it.
    """
    host = unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]").partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return peer
    if isinstance(address, IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped or ip_network((address, 64), strict=False))


def certificate_hash(certificate_der: bytes) -> bytes:
    """What the transcript holds of the listener's certificate."""
    return hashlib.sha256(certificate_der).digest()
