"""Certificates renew themselves: a member asks an agent that holds the signing key."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import grpc

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Invalid, MeshError, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, public_der
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.authority import key_of, make_request, parse_request
from dstack_mesh.trust.desk import LONGEST_REQUEST_BYTES
from dstack_mesh.trust.membership import RENEW_EARLIEST, Membership, Role, can_invite, holds_root
from dstack_mesh.trust.renewing import Granted, Issuer, accept, issuer_of_home, issuer_request
from dstack_mesh.trust.roster.enrolment import Enrolment
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.picture import Belonging, Picture
from dstack_mesh.trust.roster.statement import ASSIGNABLE
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.issuing import Hand, hand_of
from dstack_mesh.wire.rotation import (
    Unsaid,
    replace_key,
    retire_replaced,
    revoke_retired,
    said,
    say_taken,
    unsaid,
)

log = logging.getLogger(__name__)

ISSUING = frozenset({Role.ADMIN, Role.ROOT})
"""Roles of whoever may hold a key that signs certificates."""

LOOK_SECONDS = 600.0
"""How often it is seen whether it is time; a certificate holds for weeks after that moment."""

RENEW_SECONDS = 10.0
"""Deadline of asking for a certificate."""


async def renew(
    home: Home, keeper: Keeper, who: Member, request: pb.RenewRequest, now: datetime
) -> Granted:
    """A new certificate for the caller's own key and the role it has, noted in the roster.

    An admin gets the root's word for its signing key anew, where the root key is and the roster
    calls that key the admin's. Who asks again soon gets one again, and no second note: the roster
    has room for so many.

    Raises:
        Invalid: The request is not of the key that calls.
        Forbidden: This home was an admin's.
    """
    if max(len(request.certificate_request), len(request.issuer_request)) > LONGEST_REQUEST_BYTES:
        raise Invalid("A certificate request is too long.")
    if request.replaces_key:
        return await replace_key(home, keeper, who, request, now)
    checked = parse_request(request.certificate_request)
    if PeerId(id_of_key(public_der(key_of(checked)))) != who.peer_id:
        raise Invalid("A certificate request is not of the key that calls.")
    if request.took_key:
        await retire_replaced(home, keeper, who.peer_id, request.without_overlap, now)
    hand = await hand_of(home, keeper, "Renewing a certificate")
    word = _issuer_again(hand, keeper.picture, who, request.issuer_request, now)
    granted = Granted(hand.authority.sign(checked, who.role, now), word)
    until = hand.authority.until(now)
    known = keeper.picture.members.get(who.peer_id)
    if known is not None and _noted(known.expires_at, until, now):
        return granted
    if hand.scribe.is_root or who.role in ASSIGNABLE:  # of an admin only the root's word is heeded
        await Enrolment(keeper, hand.scribe).enrol(
            who.peer_id, who.role, known.name if known else "", "renewal", until, now
        )
    return granted


def _issuer_again(
    hand: Hand, picture: Picture, who: Member, request: bytes, now: datetime
) -> bytes:
    if not request or not hand.authority.is_root:
        return b""
    checked = parse_request(request)
    key = PeerId(id_of_key(public_der(key_of(checked))))
    if who.role is not Role.ADMIN or (picture.issuers or {}).get(key) != who.peer_id:
        return b""  # an admin no more, or with a key that the root voided
    return hand.authority.sign_issuer(checked, now)


def _noted(expires_at: datetime | None, until: datetime, now: datetime) -> bool:
    """Whether the roster knows a certificate that nobody would renew yet."""
    return expires_at is not None and expires_at - now > (until - now) * (1 - RENEW_EARLIEST)


async def ask_to_renew(
    channel: grpc.aio.Channel, name: str, home: Home, membership: Membership
) -> Membership:
    """Takes a new certificate for this home's key from a peer that may sign. Raises a MeshError.

    For the key with which an admin signs, too, if the root's agent is asked.
    """
    request = await asyncio.to_thread(_request, home, with_issuer=True)
    with translated(name):
        response = await rpc.RosterServiceStub(channel).Renew(request, timeout=RENEW_SECONDS)
    granted = Granted(response.certificate_pem, response.issuer_pem)
    return await asyncio.to_thread(accept, home, membership, granted)


def _request(home: Home, with_issuer: bool) -> pb.RenewRequest:
    return pb.RenewRequest(
        certificate_request=make_request(Identity.load_or_make(home)),
        issuer_request=issuer_request(home) if with_issuer else b"",
    )


async def renew_ourselves(
    home: Home, keeper: Keeper, membership: Membership, now: datetime
) -> Membership:
    """The home that holds the signing key signs for itself. Raises a MeshError if it may not."""
    request = await asyncio.to_thread(_request, home, with_issuer=False)
    who = Member(membership.peer_id, keeper.picture.role(membership.peer_id, membership.role))
    signed = await renew(home, keeper, who, request, now)
    return await asyncio.to_thread(accept, home, membership, signed)


class Renewal:
    """Renews the certificate of an agent's home, again and again.

    Args:
        home: Whose certificate.
        keeper: Says who may sign.
        channels: Takes the new certificate for what is dialled from then on.
        agents: Who is there.
        clock: Tells when it is time.
    """

    def __init__(
        self,
        home: Home,
        keeper: Keeper,
        channels: Channels,
        agents: Callable[[], Sequence[KnownAgent]],
        clock: Clock,
    ) -> None:
        self._home = home
        self._keeper = keeper
        self._channels = channels
        self._agents = agents
        self._clock = clock

    async def run(self) -> None:
        """Looks again and again whether it is time, until cancelled."""
        own = await asyncio.to_thread(Membership.load, self._home)
        while True:
            try:
                await self.look()
            except (MeshError, OSError) as failed:
                log.warning("the certificate was not looked at: %s", failed)
            await self.retire()
            await self.say(own)
            await asyncio.sleep(LOOK_SECONDS)

    async def retire(self) -> None:
        """Revokes keys that were replaced by others here, once their overlap is over."""
        try:
            for peer_id in await revoke_retired(self._home, self._keeper, self._clock.now()):
                log.info("%s was replaced and is revoked now", peer_id)
        except (MeshError, OSError) as failed:
            log.warning("replaced keys were not revoked: %s", failed)

    async def say(self, own: Membership | None) -> None:
        """Says that this home has the key by which it calls, if a command could not."""
        try:
            waiting = await asyncio.to_thread(unsaid, self._home)
            present = await asyncio.to_thread(Membership.load, self._home)
            if waiting is None or own is None or present is None or own.peer_id != present.peer_id:
                return  # what runs with the old key says nothing for the new one
            now = self._clock.now()
            await say_switched(
                self._home, self._keeper, self._channels, self._agents(), waiting, now
            )
        except (MeshError, OSError) as failed:
            log.warning("nobody knows yet that this home has its new key: %s", failed)

    async def look(self) -> bool:
        """Renews if it is time and somebody who may sign answers; whether it did."""
        membership = await asyncio.to_thread(Membership.load, self._home)
        if membership is None:
            return False
        issuer, now = await asyncio.to_thread(issuer_of_home, self._home), self._clock.now()
        renewed: Membership | None = None
        if issuer is not None and now >= issuer.renewed_at:
            renewed = await self._at_the_roots(membership, issuer)
        if renewed is None and now >= membership.renewed_at:
            renewed = await self._renewed(membership)
        if renewed is not None:
            log.info("the certificate was renewed; it holds until %s", renewed.not_after)
            self._channels.renew()
        return renewed is not None

    async def _at_the_roots(self, membership: Membership, issuer: Issuer) -> Membership | None:
        """Renews the root's word for our signing key, and our own certificate with it."""
        picture = self._keeper.picture
        if not picture.issues(membership.peer_id) or issuer.key_id in picture.voided:
            return None  # an admin no more, or with a key that the root voided
        roots = [one for one in self._signing() if _is_root(picture, one)]
        renewed = await self._asked(roots, membership)
        if renewed is None:
            log.warning(
                "this home may invite until %s; only an agent of the root's home renews that",
                issuer.not_after,
            )
        return renewed

    async def _renewed(self, membership: Membership) -> Membership | None:
        if can_invite(self._home):
            try:
                now = self._clock.now()
                return await renew_ourselves(self._home, self._keeper, membership, now)
            except (MeshError, OSError) as failed:  # an admin no more, a key ended, a full disk
                log.warning("this home does not renew its own certificate: %s", failed)
        return await self._asked(self._signing(), membership)

    async def _asked(
        self, agents: Iterable[KnownAgent], membership: Membership
    ) -> Membership | None:
        for agent in agents:
            try:
                channel = self._channels.to_peer(agent.card.peer_id, agent.addresses[0])
                return await ask_to_renew(channel, agent.card.name, self._home, membership)
            except (MeshError, OSError) as failed:
                log.warning("%s did not renew the certificate: %s", agent.card.name, failed)
        return None

    def _signing(self) -> list[KnownAgent]:
        return signing(self._keeper.picture, self._agents())


async def say_switched(
    home: Home,
    keeper: Keeper,
    channels: Channels,
    agents: Iterable[KnownAgent],
    waiting: Unsaid,
    now: datetime,
) -> None:
    """Says to whoever admitted this home's key that it has it; done for good on return.

    Raises:
        Unreachable: Nobody answers who may have admitted it.
    """
    if keeper.picture.belonging(waiting.old) is Belonging.REVOKED:
        return await asyncio.to_thread(said, home)
    if holds_root(home):
        own = (await asyncio.to_thread(Membership.require, home)).peer_id
        await retire_replaced(home, keeper, own, waiting.at_once, now)
        return await asyncio.to_thread(said, home)
    failed: MeshError | None = None
    for agent in signing(keeper.picture, agents):
        try:
            channel = channels.to_peer(agent.card.peer_id, agent.addresses[0])
            if await say_taken(channel, agent.card.name, home, waiting.at_once):
                return await asyncio.to_thread(said, home)
        except MeshError as one:
            failed = one
    raise failed or nobody_signs()


def nobody_signs() -> Unreachable:
    """The error where nobody is there who could."""
    return Unreachable(
        "Nobody who may sign certificates answers.",
        "The root's agent does, and those of the admins that it invited.",
        "Start one of them, then again.",
        code="nobody-signs",
    )


def signing(picture: Picture, agents: Iterable[KnownAgent]) -> list[KnownAgent]:
    """Those of the agents that may hold a key that signs certificates; the root's first."""
    able = [
        one
        for one in agents
        if one.addresses
        and not one.local
        and one.state != "gone"
        and picture.role(one.card.peer_id, Role.READER) in ISSUING
    ]
    return sorted(able, key=lambda one: not _is_root(picture, one))


def _is_root(picture: Picture, agent: KnownAgent) -> bool:
    return picture.role(agent.card.peer_id, Role.READER) is Role.ROOT
