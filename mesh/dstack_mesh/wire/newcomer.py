"""A newcomer joins a mesh over the network: finds the listener of an invitation and calls it."""

import asyncio
import os
import ssl
from collections.abc import Callable
from contextlib import suppress

import grpc

from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.discovery.mdns import find_invite
from dstack_mesh.discovery.seeds import parse_seed
from dstack_mesh.faults import Forbidden, MeshError, Refused, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, MeshId
from dstack_mesh.own_name import own_name
from dstack_mesh.trust.invite import parse_code
from dstack_mesh.trust.joining import Agreement, Greeting, Newcomer, Reply
from dstack_mesh.trust.membership import Membership
from dstack_mesh.v1 import admission_pb2 as pb
from dstack_mesh.v1 import admission_pb2_grpc as rpc
from dstack_mesh.wire.admission import CALL_SECONDS, LISTENER_NAME, certificate_hash
from dstack_mesh.wire.channels import OPTIONS
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.roster import open_book, statements_from_wire
from dstack_mesh.wire.statements import verified

SEARCH_SECONDS = 5.0
"""How long the listener is searched by multicast."""

Words = tuple[str, str, str, str]


def _accept(words: Words) -> bool:
    return True


async def join_mesh(
    home: Home,
    code: str,
    address: str | None = None,
    confirm: Callable[[Words], bool] = _accept,
    clock: Clock | None = None,
    name: str | None = None,
) -> Membership:
    """Joins this home to the mesh that a code invites to.

    Args:
        home: Whose key joins.
        code: As somebody typed it.
        address: HOST:PORT of the listener; searched by multicast if it is not given.
        confirm: Shown the four words that the inviter's screen shows too, in a thread; False stops.
        clock: Tells the time.
        name: What people shall call this machine; by default as it calls itself.

    Raises:
        Invalid: The code or the address cannot be.
        Unreachable: Nobody serves this invitation there.
        Missing: The invitation was used, expired or burned.
        Forbidden: The code is wrong, or the words were not accepted.
        Refused: This home is a member of another mesh.
    """
    called = own_name(os.environ) if name is None else name
    newcomer = await asyncio.to_thread(Newcomer, home, parse_code(code), called)
    if address is not None:
        return await _join_at(newcomer, parse_seed(address), confirm, clock or SystemClock())
    found = await _search(newcomer.invite_id)
    unreachable: MeshError | None = None
    for candidate in found:
        try:
            return await _join_at(newcomer, candidate, confirm, clock or SystemClock())
        except Unreachable as failed:
            unreachable = failed
    raise unreachable or _nobody(newcomer.invite_id)


async def _search(invite_id: str) -> tuple[Address, ...]:
    with suppress(Unreachable):
        return await find_invite(invite_id, SEARCH_SECONDS)
    return ()


def _nobody(invite_id: str) -> Unreachable:
    return Unreachable(
        f"Nobody on this network serves the invitation {invite_id}-….",
        f"It was searched by multicast for {SEARCH_SECONDS:g} s. It may have been used or have "
        "expired, or multicast does not reach the inviter.",
        "Give the address that the other screen shows: `dstack mesh join CODE HOST:PORT`.",
        code="invite-not-found",
    )


async def _join_at(
    newcomer: Newcomer, address: Address, confirm: Callable[[Words], bool], clock: Clock
) -> Membership:
    leaf = await _read_leaf(address)
    options = [*OPTIONS, ("grpc.ssl_target_name_override", LISTENER_NAME)]
    pinned = grpc.ssl_channel_credentials(ssl.DER_cert_to_PEM_cert(leaf).encode())
    async with grpc.aio.secure_channel(address, pinned, options=options) as channel:
        stub = rpc.AdmissionServiceStub(channel)
        agreement = await _greet(stub, newcomer, address, certificate_hash(leaf))
        newcomer.check_free(agreement.transcript.mesh_id)
        if not await asyncio.to_thread(confirm, agreement.words):
            raise Forbidden(
                "The words differ; nothing was joined.",
                "Somebody may stand between the two machines.",
                "Ask for a new invitation and give the address from the other screen.",
                code="words-differ",
            )
        reply = await _ask_to_join(stub, newcomer, address, agreement)
    return await asyncio.to_thread(_finish, newcomer, agreement, reply, clock)


def _finish(newcomer: Newcomer, agreement: Agreement, reply: Reply, clock: Clock) -> Membership:
    membership = newcomer.finish(agreement, reply, clock.now())
    open_book(newcomer.home, membership.mesh_id).add(verified(reply.statements))
    return membership


async def _read_leaf(address: Address) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is believed yet: the certificate is pinned, and the proof covers its hash.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CALL_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except (OSError, TimeoutError) as failed:
        raise Unreachable(
            f"No invitation is served at {address}.",
            f"{failed or 'Nobody answered in time'}. It may have been used or have expired.",
            "Compare the address with the other screen, or ask for a new invitation.",
            code="invite-unreachable",
        ) from failed
    leaf: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    if leaf is None:
        raise Refused(f"{address} showed no certificate.")
    return leaf


async def _greet(
    stub: "rpc.AdmissionServiceAsyncStub", newcomer: Newcomer, address: Address, leaf_hash: bytes
) -> Agreement:
    request = pb.GreetRequest(
        invite_id=newcomer.invite_id,
        joiner_key=newcomer.public_key,
        joiner_nonce=newcomer.nonce,
    )
    with translated(address):
        response = await stub.Greet(request, timeout=CALL_SECONDS)
    greeting = Greeting(MeshId(response.mesh_id), response.server_nonce, response.server_proof)
    try:
        return await asyncio.to_thread(newcomer.check, greeting, leaf_hash)
    except Forbidden:
        # Says only that the code did not fit: the inviter counts it and sees it.
        failed = pb.JoinRequest(invite_id=newcomer.invite_id, joiner_nonce=newcomer.nonce)
        with suppress(MeshError), translated(address):
            await stub.Join(failed, timeout=CALL_SECONDS)
        raise


async def _ask_to_join(
    stub: "rpc.AdmissionServiceAsyncStub",
    newcomer: Newcomer,
    address: Address,
    agreement: Agreement,
) -> Reply:
    request = pb.JoinRequest(
        invite_id=newcomer.invite_id,
        joiner_proof=agreement.proof,
        certificate_request=newcomer.request(),
        joiner_nonce=newcomer.nonce,
        name=newcomer.name,
        issuer_request=newcomer.issuer_request(),
    )
    with translated(address):
        response = await stub.Join(request, timeout=CALL_SECONDS)
    return Reply(
        certificate_pem=response.certificate_pem,
        root_pem=response.root_pem,
        mesh_name=response.mesh_name,
        discovery_key=response.discovery_key,
        seeds=tuple(map(Address, response.seeds)),
        role=response.role,
        proof=response.server_proof,
        statements=tuple(statements_from_wire(response.statements)),
        issuer_pem=response.issuer_pem,
    )
