"""RosterService: heads and statements both ways, and the roster of a home opened for a process."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from weakref import WeakValueDictionary

import grpc

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, is_id, read_private_key
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.signing import Signed, Signer
from dstack_mesh.trust.membership import Membership, Role, root_key_path
from dstack_mesh.trust.roster.book import Book
from dstack_mesh.trust.roster.chain import Head, Heads
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.scribe import Scribe
from dstack_mesh.trust.roster.statement import DIGEST_BYTES, Admit, Sealed
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.v1 import roster_pb2_grpc as rpc
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.statements import (
    read_body,
    readable,
    seal,
    signed_from_wire,
    signed_to_wire,
    verified,
)

MOST_HEADS = 1024
PAGE_STATEMENTS = 256
PAGE_BYTES = 256 * 1024
EXCHANGE_SECONDS = 5.0
"""Deadline of one call; an exchange is two, and more only where much is missing."""

MOST_ROUNDS = 128
"""Calls of one exchange: enough for a roster that is full, one page at a time."""


MOST_OF_ONE = 2
"""Exchanges of one peer that go on at a time."""


@frozen
class Exchanged:
    """What an exchange came to: statements that each side learned, and the other's heads then."""

    learned: int
    told: int
    theirs: Heads


class RosterClient:
    """Exchanges statements with a peer.

    Args:
        channel: To it.
        name: What a person calls it, for messages.
    """

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = rpc.RosterServiceStub(channel)
        self._name = name

    async def exchange(self, keeper: Keeper, within: float = EXCHANGE_SECONDS) -> Exchanged:
        """Calls until neither side learns anything more. Raises a MeshError."""
        learned, told = 0, 0
        theirs: Heads | None = None
        for _ in range(MOST_ROUNDS):
            sent = () if theirs is None else page(keeper.missing_since(theirs))
            request = pb.ExchangeRequest(heads=heads_to_wire(keeper.picture.heads))
            request.statements.extend(map(signed_to_wire, sent))
            with translated(self._name):
                response = await self._stub.Exchange(request, timeout=within)
            before, theirs = theirs, heads_from_wire(response.heads)
            fresh = await keeper.absorb(statements_from_wire(response.statements))
            learned, told = learned + fresh, told + len(sent)
            quiet = not fresh and before == theirs
            if theirs == keeper.picture.heads or quiet:
                break
        return Exchanged(learned, told, theirs or {})


class Turns:
    """Lets two exchanges of one peer go on at a time; its further ones wait behind them.

    So whoever sends much waits for itself, and delays nobody's revocation.
    """

    def __init__(self) -> None:
        self._turns = WeakValueDictionary[PeerId | None, asyncio.Semaphore]()

    def of(self, peer_id: PeerId | None) -> asyncio.Semaphore:
        """To be held during an exchange of this peer; None is this home itself."""
        return self._turns.setdefault(peer_id, asyncio.Semaphore(MOST_OF_ONE))


async def answer(keeper: Keeper, request: pb.ExchangeRequest) -> pb.ExchangeResponse:
    """Takes what a caller sends and says what it lacks. Raises Invalid beyond the bounds."""
    if len(request.heads) > MOST_HEADS or len(request.statements) > PAGE_STATEMENTS:
        raise Invalid(
            "Too much of the roster was sent at once.",
            f"{len(request.heads)} heads and {len(request.statements)} statements; at most "
            f"{MOST_HEADS} and {PAGE_STATEMENTS}.",
        )
    theirs = heads_from_wire(request.heads)
    await keeper.absorb(statements_from_wire(request.statements))
    response = pb.ExchangeResponse(heads=heads_to_wire(keeper.picture.heads))
    response.statements.extend(map(signed_to_wire, page(keeper.missing_since(theirs))))
    return response


def page(statements: Iterable[Sealed]) -> tuple[Signed, ...]:
    """The first of these that fit into one message."""
    return within_page(one.signed for one in statements)


def within_page(statements: Iterable[Signed]) -> tuple[Signed, ...]:
    """The first of these that fit into one message."""
    taken: list[Signed] = []
    room = PAGE_BYTES
    for one in islice(statements, PAGE_STATEMENTS):
        room -= len(one.body) + len(one.key) + len(one.signature)
        if room < 0:
            break
        taken.append(one)
    return tuple(taken)


def heads_to_wire(heads: Heads) -> list[pb.Head]:
    return [
        pb.Head(issuer=issuer, seq=head.seq, digest=head.digest)
        for issuer, head in islice(heads.items(), MOST_HEADS)
    ]


def heads_from_wire(heads: Sequence[pb.Head]) -> Heads:
    """Heads that nobody could have are left out."""
    return {
        PeerId(one.issuer): Head(one.seq, one.digest)
        for one in heads[:MOST_HEADS]
        if is_id(one.issuer) and one.seq and len(one.digest) == DIGEST_BYTES
    }


def statements_from_wire(statements: Iterable[pb.SignedStatement]) -> list[Signed]:
    """As they came; verified when they are absorbed."""
    return [signed_from_wire(one) for one in islice(statements, PAGE_STATEMENTS)]


def record_founder(home: Home, membership: Membership, name: str, now: datetime) -> None:
    """Writes the first statement of a mesh: the home that made it is its root."""
    scribe = scribe_of(home, membership)
    founder = Admit(membership.peer_id, Role.ROOT, name, "create", membership.not_after)
    book = open_book(home, membership.mesh_id)
    book.issue(lambda roster: scribe.write(roster, [founder], now))


def open_book(home: Home, mesh_id: MeshId) -> Book:
    """The roster of a home on disk."""
    return Book(home, mesh_id, read_body)


def open_keeper(home: Home, membership: Membership, clock: Clock | None = None) -> Keeper:
    """The roster of a home for a process that runs. Reads it from disk."""
    return Keeper(open_book(home, membership.mesh_id), readable, verified, clock)


def scribe_of(home: Home, membership: Membership) -> Scribe:
    """Writes what this home may say: as the root where its key is, else as itself."""
    root = root_key_path(home)
    if root.exists():
        return Scribe(Signer(read_private_key(root)), membership.mesh_id, seal)
    return own_scribe(home, membership)


def own_scribe(home: Home, membership: Membership) -> Scribe:
    """Writes what this home says as itself."""
    return Scribe(Signer.of(Identity.load_or_make(home)), membership.mesh_id, seal)
