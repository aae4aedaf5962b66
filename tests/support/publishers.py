"""Agents of tests that publish what they know, without a network between them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dstack_agent.database import Database
from dstack_agent.driven import DrivenRuns
from dstack_agent.hearsay import Hearsay
from dstack_agent.listing import Listings
from dstack_agent.publishing import Publisher, Sources
from dstack_agent.pulse import Pulse
from dstack_agent.records import Records
from dstack_agent.removals import Removals
from dstack_agent.tags import Tags
from dstack_agent.touched import Touched
from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.clock import SystemClock
from dstack_mesh.ids import Address, Digest, MeshId, PeerId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import NOTHING, Entry
from dstack_mesh.records.store import RecordStore
from dstack_mesh.signing import Signer
from dstack_scheduler.job import JobKey, JobSpec, JobState, StateChange
from support.eventually import eventually_async
from support.machines import question, spec

CLOCK = SystemClock()
AT = datetime(2026, 11, 20, tzinfo=UTC)
DIGEST = Digest(bytes(32))


@dataclass
class Agent:
    """An agent's memory, book and what reads it."""

    book: RecordBook
    records: Records
    tags: Tags
    removals: Removals
    hearsay: Hearsay
    known: list[KnownAgent]
    card: PeerCard
    answers: list[HelloAnswer]
    publisher: Publisher
    disbelieved: set[PeerId]


def answer_of(card: PeerCard, free: int = 8 << 30) -> HelloAnswer:
    machine = Machine(8, 16 << 30, free, 500 << 30)
    return HelloAnswer(card, AgentState.ALIVE, machine, (), (), datetime.now(UTC))


@asynccontextmanager
async def opened(folder: Path, name: str, signer: Signer) -> AsyncGenerator[Agent]:
    database, store = Database(folder / "agent.db"), RecordStore(folder / "records.db")
    try:
        disbelieved: set[PeerId] = set()
        book = RecordBook(store, signer, CLOCK, lambda writer: writer not in disbelieved)
        await book.open()
        card = PeerCard(book.writer, MeshId("m" * 32), name, (Address("10.0.0.1:1"),), "", True)
        touched = Touched()
        records, tags = Records(database, touched), Tags(database, touched)
        driven = DrivenRuns(database, touched)
        removals = Removals(database, tags, touched)
        listings = Listings(records, driven, tags, lambda: card, removals=removals)
        known: list[KnownAgent] = []
        hearsay = Hearsay(book, Pulse(lambda: known, CLOCK), CLOCK, disbelieved.__contains__)
        answers = [answer_of(card)]
        sources = Sources(
            listings,
            records,
            tags,
            removals,
            touched,
            lambda: answers[-1].machine,
            lambda machine: replace(answers[-1], machine=machine),
            lambda _: folder / "journal",
        )
        publisher = Publisher(book, sources, hearsay, CLOCK)
        yield Agent(
            book, records, tags, removals, hearsay, known, card, answers, publisher, disbelieved
        )
    finally:
        store.close()
        database.close()


async def tell(one: Agent, other: Agent) -> None:
    """What the gossip would bring."""
    delta = one.book.since(one.book.writer, NOTHING)
    if delta is not None:
        await other.book.take(delta, None)


def job(key: JobKey) -> JobSpec:
    return spec(question(key=key), code=bytes(32))


def change(key: JobKey, state: JobState, code: int | None = None) -> StateChange:
    return StateChange(key, state, AT, exit_code=code)


async def shown(agent: Agent, kind: str, many: int) -> list[Entry]:
    async def there() -> bool:
        return len(list(agent.book.own(kind))) == many

    await eventually_async(there, within=5)
    return [record.entry for record in agent.book.own(kind)]
