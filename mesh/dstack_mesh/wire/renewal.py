"""Certificates renew themselves: a member asks an agent that holds the signing key."""

import asyncio
from datetime import datetime

import grpc

from dstack_mesh.faults import Invalid
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, public_der
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.authority import LEAF_LIFE, Authority, key_of, make_request, parse_request
from dstack_mesh.trust.desk import LONGEST_REQUEST_BYTES
from dstack_mesh.trust.roster.enrolment import Enrolment
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.roster import scribe_of

RENEW_SECONDS = 10.0
"""Deadline of asking for a certificate."""


async def renew(
    home: Home, keeper: Keeper, who: Member, request: pb.RenewRequest, now: datetime
) -> bytes:
    """A new certificate for the caller's own key and the role it has, noted in the roster.

    Raises:
        Invalid: The request is not of the key that calls.
    """
    if len(request.certificate_request) > LONGEST_REQUEST_BYTES:
        raise Invalid("A certificate request is too long.")
    checked = parse_request(request.certificate_request)
    if PeerId(id_of_key(public_der(key_of(checked)))) != who.peer_id:
        raise Invalid("A certificate request is not of the key that calls.")
    authority = await asyncio.to_thread(Authority, home)
    certificate = authority.sign(checked, who.role, now)
    scribe = await asyncio.to_thread(scribe_of, home, authority.membership)
    known = keeper.picture.members.get(who.peer_id)
    await Enrolment(keeper, scribe).enrol(
        who.peer_id, who.role, known.name if known else "", "renewal", now + LEAF_LIFE, now
    )
    return certificate


async def ask_to_renew(channel: grpc.aio.Channel, name: str, home: Home) -> bytes:
    """A new certificate for this home's key, as PEM. Raises a MeshError."""
    identity = await asyncio.to_thread(Identity.load_or_make, home)
    request = pb.RenewRequest(certificate_request=await asyncio.to_thread(make_request, identity))
    with translated(name):
        response = await rpc.RosterServiceStub(channel).Renew(request, timeout=RENEW_SECONDS)
    return response.certificate_pem
