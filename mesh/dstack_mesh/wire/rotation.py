"""A home takes a new key: it is admitted in the place of the old one, over the old one's TLS.

    old key     admit my next key               ──▶  promise: the old one goes after a day
                                                ◀──  certificate; an admin's issuer with it
    both        the home switches, in one step
    next key    I have it                       ──▶  the old one is a runner's at most, or revoked

Each line can be said again with the same outcome, so whatever is cut off is begun again.
"""

import asyncio
import json
from dataclasses import replace
from datetime import datetime

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Busy, Damaged, Forbidden, Invalid, MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, private_pem, public_der, read_private_key
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.authority import key_of, make_request, parse_request, request_of, to_pem
from dstack_mesh.trust.membership import Membership, Role, can_invite, fields_of, holds_root
from dstack_mesh.trust.path import checked_path, key_id
from dstack_mesh.trust.renewing import Granted, checked_issuer, root_of
from dstack_mesh.trust.retiring import OVERLAP, Promise, Retiring
from dstack_mesh.trust.roster.enrolment import unmaking, unused_name
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.picture import Belonging, Picture
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.scribe import Scribe
from dstack_mesh.trust.roster.statement import (
    ASSIGNABLE,
    AddAdmin,
    AddIssuer,
    Admit,
    Assign,
    Fact,
    Revoke,
    Sealed,
)
from dstack_mesh.trust.switching import DRAFT, ISSUER_DRAFT, UNSAID, switch
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.issuing import hand_of
from dstack_mesh.wire.roster import scribe_of

ROTATE_SECONDS = 10.0
"""Deadline of asking for it."""

MOST_OVERLAPPING = 4
"""Old keys of one home that go on beside its new one; a membership is not to become many."""

REPLACED = "replaced by a new key"

NOTHING_REPLACED = "nothing-replaced"
"""Code of who keeps no promise about what a key replaced."""


# Whoever signs


async def replace_key(
    home: Home, keeper: Keeper, who: Member, request: pb.RenewRequest, now: datetime
) -> Granted:
    """A certificate for the caller's next key, which is admitted with the caller's name and role.

    An admin's next key to sign with is made an issuer in the same step. The old key is revoked by
    the agent of this home when the overlap is over, or when the caller says that it has the new
    one. Asked again for the same key, the same is given again.

    Raises:
        Invalid: The request is of the key that calls.
        Forbidden: An admin's or root's key is replaced by the root alone, or this home was an
            admin's.
        Refused: The roster knows the next key already, or does not know the caller, or another key
            replaced the caller's.
        Busy: The roster is full, or too many keys wait to be revoked, here or of the caller.
    """
    checked = parse_request(request.certificate_request)
    issuing = parse_request(request.issuer_request) if request.issuer_request else None
    fresh = PeerId(id_of_key(public_der(key_of(checked))))
    hand = await hand_of(home, keeper, "Replacing a key")
    retiring = Retiring(home)
    promise = (await asyncio.to_thread(retiring.all)).get(who.peer_id)
    picture = keeper.picture
    admitted = _admitted(picture, promise, fresh)
    role = picture.role(fresh, who.role) if admitted else who.role
    _check_replaceable(picture, hand.scribe, who, role, fresh)
    issuer = PeerId(id_of_key(public_der(key_of(issuing)))) if issuing else None
    signed = hand.authority.sign(checked, role, now)
    word = hand.authority.sign_issuer(issuing, now) if issuing and role is Role.ADMIN else b""
    admission = _Admission(who, fresh, issuer, hand.authority.until(now))

    def admit(roster: Roster) -> list[Sealed]:
        # Under the book's lock, or one key would admit as many as ask at once.
        promise = retiring.all().get(who.peer_id)
        if _admitted(roster.picture, promise, fresh):
            return []
        _check_unknown(roster.picture, promise, fresh, issuer)
        _check_overlapping(len(retiring.replaced_by(who.peer_id)))
        # First, for who crashes in between promised too much, which is never kept.
        retiring.add(who.peer_id, Promise(now + OVERLAP, fresh))
        return hand.scribe.write(roster, admission.facts(roster), now)

    if not admitted:
        await keeper.issue(admit)
    return Granted(signed, word)


@frozen
class _Admission:
    """A key is admitted in the place of another one."""

    who: Member
    fresh: PeerId
    issuer: PeerId | None
    until: datetime

    def facts(self, roster: Roster) -> list[Fact]:
        old, role = self.who.peer_id, self.who.role
        known = roster.picture.members[old]
        name = unused_name(roster.picture, self.fresh, known.name, besides=old)
        given = Role.RUNNER if role is Role.ADMIN else role  # admins are made, not admitted
        facts: list[Fact] = [Admit(self.fresh, given, name, "rotation", self.until)]
        if role is Role.ADMIN:
            facts.append(AddAdmin(self.fresh))
            if self.issuer is not None:
                facts.append(AddIssuer(self.issuer, self.fresh))
        return facts


def _check_replaceable(
    picture: Picture, scribe: Scribe, who: Member, role: Role, fresh: PeerId
) -> None:
    if role not in ASSIGNABLE and not scribe.is_root:
        raise Forbidden(
            "An admin's key is replaced by the root alone.",
            "The root's word of the admin names the key.",
            "Start the agent of the root's home, then again.",
            code="not-an-admin",
        )
    if fresh == who.peer_id or who.peer_id not in picture.members:
        raise Invalid("A key is replaced by another one, of a member that the roster knows.")


def _admitted(picture: Picture, promise: Promise | None, fresh: PeerId) -> bool:
    """Whether this key was admitted before in the place of the one that asks."""
    return promise is not None and promise.by == fresh and fresh in picture.members


def _check_unknown(
    picture: Picture, promise: Promise | None, fresh: PeerId, issuer: PeerId | None
) -> None:
    known = picture.belonging(fresh) is not None
    if known or issuer in picture.voided or issuer in (picture.issuers or {}):
        raise Refused("The roster knows that key already.", code="key-known")
    if promise is not None and picture.belonging(promise.by) is not None:
        raise Refused(
            "This key was replaced by another one already.",
            f"{promise.by} was admitted in its place, and this one is revoked at "
            f"{promise.at:%Y-%m-%d %H:%M} UTC.",
            "If that was not you: `dstack mesh revoke` that one, and join again with a new key.",
            code="key-replaced",
        )


def _check_overlapping(waiting: int) -> None:
    if waiting >= MOST_OVERLAPPING:
        raise Busy(
            "This home's key was replaced too often within a day.",
            f"{waiting} keys that it had before wait to be revoked.",
            "Try again tomorrow, or have them revoked now: `dstack mesh revoke`.",
        )


async def retire_replaced(
    home: Home, keeper: Keeper, by: PeerId, at_once: bool, now: datetime
) -> list[PeerId]:
    """Takes from what a key replaced all but a runner's rights, or with `at_once` all; which.

    Raises:
        Refused: This home promised nothing about such a key.
    """
    retiring = Retiring(home)
    old = await asyncio.to_thread(retiring.replaced_by, by)
    if not old:
        raise Refused(
            "No key waits here to be revoked that this one replaced.", code=NOTHING_REPLACED
        )
    hand = await hand_of(home, keeper, "Revoking a replaced key")
    await _retire(keeper, hand.scribe, old, at_once, now)
    if at_once:
        await asyncio.to_thread(retiring.forget, old)
    return old


async def revoke_retired(home: Home, keeper: Keeper, now: datetime) -> list[PeerId]:
    """Revokes the keys whose overlap is over, as this home promised; which."""
    retiring = Retiring(home)
    due = await asyncio.to_thread(retiring.due, now)
    membership = Membership.load(home)
    if not due or membership is None:
        return []
    scribe = await asyncio.to_thread(scribe_of, home, membership)
    promises = await asyncio.to_thread(retiring.all)
    # One that was promised before a crash, and whose replacement was never admitted, stays.
    old = [one for one in due if keeper.picture.belonging(promises[one].by) is not None]
    await _retire(keeper, scribe, old, True, now)
    await asyncio.to_thread(retiring.forget, due)
    return old


async def _retire(
    keeper: Keeper, scribe: Scribe, old: list[PeerId], revoked: bool, now: datetime
) -> None:
    def write(roster: Roster) -> list[Sealed]:
        facts = [fact for one in old for fact in _lowered(roster, scribe, one)]
        if revoked:
            facts += [Revoke(one, REPLACED) for one in old]
        return scribe.write(roster, facts, now)

    if old:
        await keeper.issue(write)


def _lowered(roster: Roster, scribe: Scribe, subject: PeerId) -> list[Fact]:
    """What leaves a key a runner's rights at most; all that it said until now stands."""
    if not scribe.is_root:
        return []
    member = roster.picture.belonging(subject) is Belonging.MEMBER
    if member and roster.picture.role(subject, Role.READER) is Role.ROOT:
        return [Assign(subject, Role.RUNNER)]
    return unmaking(roster, subject)


# Whoever takes a new key


@frozen
class NextKeys:
    """The keys that this home will have. `issuer` signs certificates, in an admin's home."""

    peer: ec.EllipticCurvePrivateKey
    issuer: ec.EllipticCurvePrivateKey | None

    def request(self) -> pb.RenewRequest:
        """Asks for their certificates."""
        return pb.RenewRequest(
            certificate_request=request_of(self.peer),
            replaces_key=True,
            issuer_request=b"" if self.issuer is None else request_of(self.issuer),
        )


def next_keys(home: Home) -> NextKeys:
    """The keys that this home will have; the same ones until it has them. On disk on return."""
    issues = can_invite(home) and not holds_root(home)
    return NextKeys(_draft(home, DRAFT), _draft(home, ISSUER_DRAFT) if issues else None)


def _draft(home: Home, name: str) -> ec.EllipticCurvePrivateKey:
    path = home.keys / name
    if not path.exists():
        write_durably(path, private_pem(ec.generate_private_key(ec.SECP256R1())))
    return read_private_key(path)


async def ask_to_replace(channel: grpc.aio.Channel, name: str, keys: NextKeys) -> Granted:
    """Has a peer that may sign admit our next key; its certificate. Raises a MeshError."""
    with translated(name):
        response = await rpc.RosterServiceStub(channel).Renew(
            keys.request(), timeout=ROTATE_SECONDS
        )
    return Granted(response.certificate_pem, response.issuer_pem)


def take_keys(
    home: Home, membership: Membership, keys: NextKeys, granted: Granted, at_once: bool = False
) -> Membership:
    """Makes keys this home's own, in one step. Raises Damaged for certificates of others.

    Whoever admitted them is to be told: `unsaid` says so until `said`.
    """
    path = checked_path(granted.certificate_pem, root_of(membership))
    own = PeerId(id_of_key(public_der(keys.peer.public_key())))
    if key_id(path[0]) != own:
        raise Damaged("A new certificate is not for this home's next key.")
    changed = replace(
        membership,
        peer_id=own,
        not_before=path[0].not_valid_before_utc,
        not_after=path[0].not_valid_after_utc,
    )
    files = {
        UNSAID: f"{membership.peer_id} {'now' if at_once else 'later'}".encode(),
        "key.pem": private_pem(keys.peer),
        "peer-id": f"{own}\n".encode(),
        "cert.pem": b"".join(map(to_pem, path)),
        "membership.json": json.dumps(fields_of(changed), indent=2).encode(),
    }
    switch(home, files | _issuer_files(keys, granted, root_of(membership)))
    return changed


def _issuer_files(keys: NextKeys, granted: Granted, root: x509.Certificate) -> dict[str, bytes]:
    if keys.issuer is None:
        return {}
    issuer = checked_issuer(granted.issuer_pem, root, keys.issuer.public_key())
    return {"issuer-key.pem": private_pem(keys.issuer), "issuer.pem": to_pem(issuer)}


@frozen
class Unsaid:
    """This home has a key, and whoever admitted it does not know that yet.

    Attributes:
        old: The key that it replaced.
        at_once: Whether that one is to be revoked at once.
    """

    old: PeerId
    at_once: bool


def unsaid(home: Home) -> Unsaid | None:
    """What is to be said of this home's key; None if all is said."""
    Membership.load(home)  # ends a switch that a crash cut off
    try:
        old, when = (home.keys / UNSAID).read_text().split()
    except FileNotFoundError:
        return None
    return Unsaid(PeerId(old), when == "now")


def said(home: Home) -> None:
    """Whoever admitted this home's key knows that it has it."""
    (home.keys / UNSAID).unlink(missing_ok=True)


async def say_taken(channel: grpc.aio.Channel, name: str, home: Home, at_once: bool) -> bool:
    """Says to a peer that may sign that this home has the key that it admitted.

    False if that peer made no promise about the old one. Raises a MeshError.
    """
    identity = await asyncio.to_thread(Identity.load_or_make, home)
    request = pb.RenewRequest(
        certificate_request=await asyncio.to_thread(make_request, identity),
        took_key=True,
        without_overlap=at_once,
    )
    try:
        with translated(name):
            await rpc.RosterServiceStub(channel).Renew(request, timeout=ROTATE_SECONDS)
    except MeshError as failed:
        if failed.code == NOTHING_REPLACED:
            return False
        raise
    return True
