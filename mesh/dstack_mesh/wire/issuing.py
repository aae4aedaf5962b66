"""The hand of a home that signs: its authority for certificates and its scribe for the roster."""

import asyncio

from dstack_mesh.faults import Forbidden
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.trust.authority import Authority
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.scribe import Scribe, not_allowed
from dstack_mesh.wire.roster import scribe_of


@frozen
class Hand:
    """What signs certificates, and what says in the same step whom they admit."""

    authority: Authority
    scribe: Scribe


async def hand_of(home: Home, keeper: Keeper, what: str) -> Hand:
    """The hand of this home; `what` says for what, at the beginning of a sentence.

    Raises:
        Refused: There is no key here that signs certificates.
        Forbidden: Nobody heeds it any more.
    """
    authority = await asyncio.to_thread(Authority, home)
    hand = Hand(authority, await asyncio.to_thread(scribe_of, home, authority.membership))
    check_heeded(hand, keeper, what)
    return hand


def check_heeded(hand: Hand, keeper: Keeper, what: str) -> None:
    """Raises Forbidden where nobody would heed what this hand signs."""
    if not hand.scribe.may_govern(keeper.roster):
        raise not_allowed(what)
    if hand.authority.key_id in keeper.picture.voided:
        raise Forbidden(
            f"{what} is not for this home.",
            "The root voided the key with which it signs certificates.",
            "The root invites it again: `dstack mesh invite --role admin`.",
            code="issuer-void",
        )
