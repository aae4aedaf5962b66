"""A home takes a new key: it is admitted in the place of the old one, over the old one's TLS."""

import asyncio
import json
from dataclasses import replace
from datetime import datetime

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged, Forbidden, Invalid, Refused
from dstack_mesh.home import Home
from dstack_mesh.identity import id_of_key, private_pem, public_der, read_private_key
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.authority import Authority, key_of, parse_request, request_of, to_pem
from dstack_mesh.trust.membership import Membership, Role, fields_of
from dstack_mesh.trust.path import checked_path, key_id
from dstack_mesh.trust.retiring import OVERLAP, Retiring
from dstack_mesh.trust.roster.enrolment import unused_name
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.scribe import not_allowed
from dstack_mesh.trust.roster.statement import ASSIGNABLE, Admit, Fact, Revoke, Sealed
from dstack_mesh.trust.switching import DRAFT, switch
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.roster import scribe_of

ROTATE_SECONDS = 10.0
"""Deadline of asking for it."""

REPLACED = "replaced by a new key"


async def replace_key(
    home: Home, keeper: Keeper, who: Member, request: bytes, at_once: bool, now: datetime
) -> bytes:
    """A certificate for the caller's next key, which is admitted with the caller's name and role.

    The old key is revoked now, or by the agent of this home when the overlap is over.

    Raises:
        Invalid: The request is of the key that calls.
        Forbidden: An admin's key is not replaced so, or this home was an admin's.
        Refused: The roster knows the next key already, or it does not know the caller.
    """
    checked = parse_request(request)
    fresh = PeerId(id_of_key(public_der(key_of(checked))))
    authority = await asyncio.to_thread(Authority, home)
    scribe = await asyncio.to_thread(scribe_of, home, authority.membership)
    if not scribe.may_govern(keeper.roster):
        raise not_allowed("Replacing a key")
    if who.role not in ASSIGNABLE and not (who.role is Role.ROOT and scribe.is_root):
        raise Forbidden(
            "An admin's key is replaced by the root alone.",
            "The root's word of the admin names the key.",
            "`dstack mesh leave --new-key` there, and `dstack mesh invite --role admin` at the "
            "root's.",
            code="not-an-admin",
        )
    known = keeper.picture.members.get(who.peer_id)
    if fresh == who.peer_id or known is None:
        raise Invalid("A key is replaced by another one, of a member that the roster knows.")
    if keeper.picture.belonging(fresh) is not None:
        raise Refused("The roster knows that key already.", code="key-known")
    certificate, until = authority.sign(checked, who.role, now), authority.until(now)

    def write(roster: Roster) -> list[Sealed]:
        name = unused_name(roster.picture, fresh, known.name, besides=who.peer_id)
        facts: list[Fact] = [Admit(fresh, who.role, name, "rotation", until)]
        if at_once:
            facts.append(Revoke(who.peer_id, REPLACED))
        return scribe.write(roster, facts, now)

    if not at_once:
        await asyncio.to_thread(Retiring(home).add, who.peer_id, now + OVERLAP)
    await keeper.issue(write)
    return certificate


async def revoke_retired(home: Home, keeper: Keeper, now: datetime) -> list[PeerId]:
    """Revokes the keys whose overlap is over, as this home promised; which."""
    retiring = Retiring(home)
    due = await asyncio.to_thread(retiring.due, now)
    membership = Membership.load(home)
    if not due or membership is None:
        return []
    scribe = await asyncio.to_thread(scribe_of, home, membership)
    facts = [Revoke(peer_id, REPLACED) for peer_id in due]
    await keeper.issue(lambda roster: scribe.write(roster, facts, now))
    await asyncio.to_thread(retiring.forget, due)
    return due


def next_key(home: Home) -> ec.EllipticCurvePrivateKey:
    """The key that this home will have; the same one until it has it. On disk on return."""
    path = home.keys / DRAFT
    if not path.exists():
        write_durably(path, private_pem(ec.generate_private_key(ec.SECP256R1())))
    return read_private_key(path)


async def ask_to_replace(
    channel: grpc.aio.Channel, name: str, key: ec.EllipticCurvePrivateKey, at_once: bool
) -> bytes:
    """Has a peer that may sign admit our next key; its certificate. Raises a MeshError."""
    request = pb.RenewRequest(
        certificate_request=request_of(key), replaces_key=True, without_overlap=at_once
    )
    with translated(name):
        response = await rpc.RosterServiceStub(channel).Renew(request, timeout=ROTATE_SECONDS)
    return response.certificate_pem


def take_key(
    home: Home, membership: Membership, key: ec.EllipticCurvePrivateKey, chain_pem: bytes
) -> Membership:
    """Makes a key this home's own, in one step. Raises Damaged for a certificate of another."""
    root = x509.load_pem_x509_certificate(membership.root_path.read_bytes())
    path = checked_path(chain_pem, root)
    own = PeerId(id_of_key(public_der(key.public_key())))
    if key_id(path[0]) != own:
        raise Damaged("A new certificate is not for this home's next key.")
    changed = replace(
        membership,
        peer_id=own,
        not_before=path[0].not_valid_before_utc,
        not_after=path[0].not_valid_after_utc,
    )
    switch(
        home,
        {
            "key.pem": private_pem(key),
            "peer-id": f"{own}\n".encode(),
            "cert.pem": b"".join(map(to_pem, path)),
            "membership.json": json.dumps(fields_of(changed), indent=2).encode(),
        },
    )
    return changed
