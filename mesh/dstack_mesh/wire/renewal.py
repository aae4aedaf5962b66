"""Certificates renew themselves: a member asks an agent that holds the signing key."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import grpc

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Invalid, MeshError
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, public_der
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.authority import Authority, key_of, make_request, parse_request
from dstack_mesh.trust.desk import LONGEST_REQUEST_BYTES
from dstack_mesh.trust.membership import RENEW_EARLIEST, Membership, Role, can_invite
from dstack_mesh.trust.renewing import accept
from dstack_mesh.trust.roster.enrolment import Enrolment
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.picture import Picture
from dstack_mesh.trust.roster.scribe import not_allowed
from dstack_mesh.trust.roster.statement import ASSIGNABLE
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.roster import scribe_of
from dstack_mesh.wire.rotation import replace_key, revoke_retired

log = logging.getLogger(__name__)

ISSUING = frozenset({Role.ADMIN, Role.ROOT})
"""Roles of whoever may hold a key that signs certificates."""

LOOK_SECONDS = 600.0
"""How often it is seen whether it is time; a certificate holds for weeks after that moment."""

RENEW_SECONDS = 10.0
"""Deadline of asking for a certificate."""


async def renew(
    home: Home, keeper: Keeper, who: Member, request: pb.RenewRequest, now: datetime
) -> bytes:
    """A new certificate for the caller's own key and the role it has, noted in the roster.

    Who asks again soon gets one again, and no second note: the roster has room for so many.

    Raises:
        Invalid: The request is not of the key that calls.
        Forbidden: This home was an admin's.
    """
    if len(request.certificate_request) > LONGEST_REQUEST_BYTES:
        raise Invalid("A certificate request is too long.")
    if request.replaces_key:
        at_once = request.without_overlap
        return await replace_key(home, keeper, who, request.certificate_request, at_once, now)
    checked = parse_request(request.certificate_request)
    if PeerId(id_of_key(public_der(key_of(checked)))) != who.peer_id:
        raise Invalid("A certificate request is not of the key that calls.")
    authority = await asyncio.to_thread(Authority, home)
    scribe = await asyncio.to_thread(scribe_of, home, authority.membership)
    if not scribe.may_govern(keeper.roster):
        raise not_allowed("Renewing a certificate")
    certificate, until = authority.sign(checked, who.role, now), authority.until(now)
    known = keeper.picture.members.get(who.peer_id)
    if known is not None and _noted(known.expires_at, until, now):
        return certificate
    if scribe.is_root or who.role in ASSIGNABLE:  # of an admin only the root's word is heeded
        await Enrolment(keeper, scribe).enrol(
            who.peer_id, who.role, known.name if known else "", "renewal", until, now
        )
    return certificate


def _noted(expires_at: datetime | None, until: datetime, now: datetime) -> bool:
    """Whether the roster knows a certificate that nobody would renew yet."""
    return expires_at is not None and expires_at - now > (until - now) * (1 - RENEW_EARLIEST)


async def ask_to_renew(
    channel: grpc.aio.Channel, name: str, home: Home, membership: Membership
) -> Membership:
    """Takes a new certificate for this home's key from a peer that may sign. Raises a MeshError."""
    identity = await asyncio.to_thread(Identity.load_or_make, home)
    request = pb.RenewRequest(certificate_request=await asyncio.to_thread(make_request, identity))
    with translated(name):
        response = await rpc.RosterServiceStub(channel).Renew(request, timeout=RENEW_SECONDS)
    return await asyncio.to_thread(accept, home, membership, response.certificate_pem)


async def renew_ourselves(
    home: Home, keeper: Keeper, membership: Membership, now: datetime
) -> Membership:
    """The home that holds the signing key signs for itself."""
    identity = await asyncio.to_thread(Identity.load_or_make, home)
    request = pb.RenewRequest(certificate_request=await asyncio.to_thread(make_request, identity))
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
        while True:
            await self.look()
            await self.retire()
            await asyncio.sleep(LOOK_SECONDS)

    async def retire(self) -> None:
        """Revokes keys that were replaced by others here, once their overlap is over."""
        try:
            for peer_id in await revoke_retired(self._home, self._keeper, self._clock.now()):
                log.info("%s was replaced and is revoked now", peer_id)
        except (MeshError, OSError) as failed:
            log.warning("replaced keys were not revoked: %s", failed)

    async def look(self) -> bool:
        """Renews if it is time and somebody who may sign answers; whether it did."""
        membership = await asyncio.to_thread(Membership.load, self._home)
        if membership is None or self._clock.now() < membership.renewed_at:
            return False
        renewed = await self._renewed(membership)
        if renewed is not None:
            log.info("the certificate was renewed; it holds until %s", renewed.not_after)
            self._channels.renew()
        return renewed is not None

    async def _renewed(self, membership: Membership) -> Membership | None:
        if can_invite(self._home):
            return await renew_ourselves(self._home, self._keeper, membership, self._clock.now())
        for agent in signing(self._keeper.picture, self._agents()):
            try:
                channel = self._channels.to_peer(agent.card.peer_id, agent.addresses[0])
                return await ask_to_renew(channel, agent.card.name, self._home, membership)
            except MeshError as failed:
                log.warning("%s did not renew the certificate: %s", agent.card.name, failed)
        return None


def signing(picture: Picture, agents: Iterable[KnownAgent]) -> list[KnownAgent]:
    """Those of the agents that may hold a key that signs certificates."""
    return [
        one
        for one in agents
        if one.addresses
        and one.state != "gone"
        and picture.role(one.card.peer_id, Role.READER) in ISSUING
    ]
