"""The part of an agent that knows what all know: its book of records and what keeps it alive."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from dstack_agent.hearsay import Hearsay
from dstack_agent.holdings import Holdings
from dstack_agent.listing import Listings
from dstack_agent.members import Members
from dstack_agent.memory import Memory
from dstack_agent.publishing import Publisher, Sources
from dstack_agent.pulse import Pulse
from dstack_agent.records import Accepted
from dstack_agent.servicers.membership import Answers
from dstack_agent.servicers.records import Gossiping
from dstack_mesh.card import HelloAnswer
from dstack_mesh.clock import Clock
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import Machine
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.gossip import Gossip
from dstack_mesh.records.spreader import Spreader
from dstack_mesh.records.store import RecordStore
from dstack_mesh.signing import Signer
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.records import GrpcRecordPeer


@frozen
class Chorus:
    """An agent's book, what reads it, and what spreads it."""

    book: RecordBook
    pulse: Pulse
    hearsay: Hearsay
    spreader: Spreader
    clock: Clock
    holdings: Holdings

    @property
    def gossiping(self) -> Gossiping:
        """What RecordService speaks for."""
        return Gossiping(self.book, self.hearsay, self.spreader.behind)

    def parts(self, sources: Sources) -> list[Coroutine[Any, Any, None]]:
        """What must run."""
        publisher = Publisher(self.book, sources, self.hearsay, self.clock)
        return [self.pulse.run(), self.spreader.run(), publisher.run()]


async def open_chorus(
    home: Home,
    channels: Channels,
    agents: Callable[[], Sequence[KnownAgent]],
    members: Members,
    clock: Clock,
    addresses: Callable[[PeerId], Sequence[Address]],
    stack: AsyncExitStack,
) -> Chorus:
    """Opens the book of a member's home; the stack closes it.

    Only who may run jobs is believed, by the roster as it is at each moment.

    Raises:
        Refused: It was written by a newer version.
    """
    store = RecordStore(home.state / "records.db")
    stack.callback(store.close)
    signer = await asyncio.to_thread(Signer.of, Identity.load_or_make(home))
    book = RecordBook(store, signer, clock, lambda writer: members.picture().may_write(writer))
    await book.open()
    pulse = Pulse(agents, clock)

    def dial(peer: PeerId, address: Address) -> GrpcRecordPeer:
        return GrpcRecordPeer(channels.to_peer(peer, address), peer[:8])

    gossip = Gossip(book.writer, random.Random())
    spreader = Spreader(book, agents, dial, clock, gossip)
    members.subscribe(lambda picture: spreader.believed(book.reconsider()))
    hearsay = Hearsay(book, pulse, clock, members.revoked)
    return Chorus(book, pulse, hearsay, spreader, clock, Holdings(book, hearsay, addresses))


def listings_of(
    memory: Memory,
    answers: Answers,
    chorus: Chorus | None = None,
) -> Listings:
    """What this agent knows of runs, and passes on of what others know."""
    return Listings(
        memory.records,
        memory.driven,
        memory.tags,
        answers.card,
        chorus.hearsay.tellings if chorus is not None else None,
        memory.removals,
        chorus.holdings.told if chorus is not None else None,
    )


def sources_of(
    memory: Memory, answers: Answers, journal: Callable[[Accepted], Path], clock: Clock
) -> Sources:
    """What other agents are told: what this one knows first-hand, and would answer to Hello."""
    listings = listings_of(memory, answers)

    def answer(machine: Machine) -> HelloAnswer:
        running = tuple(answers.running())
        return HelloAnswer(answers.card(), answers.state(), machine, running, (), clock.now())

    return Sources(
        listings=listings,
        records=memory.records,
        tags=memory.tags,
        removals=memory.removals,
        touched=memory.touched,
        machine=answers.machine,
        answer=answer,
        journal=journal,
    )
