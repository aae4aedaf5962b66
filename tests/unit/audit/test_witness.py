"""Each agent's audit log is known to the others, who notice when it is written anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_agent.audit.auditor import Auditor
from dstack_agent.audit.entry import Entry, What
from dstack_agent.audit.log import AuditLog
from dstack_agent.audit.reading import read_log
from dstack_agent.owner.standing import Open
from dstack_agent.witness import AUDIT, TELL_SECONDS, Diary, Witness
from dstack_mesh.ids import MeshId
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import Entry as Record
from dstack_mesh.records.record import Version
from dstack_mesh.records.store import RecordStore
from dstack_mesh.signing import Signer
from dstack_mesh.trust.roster.picture import empty
from support.machines import SetClock


@dataclass
class Agent:
    """An audit log and a book of records."""

    folder: Path
    clock: SetClock
    book: RecordBook
    stack: AsyncExitStack
    entries: AuditLog = field(init=False)
    witness: Witness = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begins with what is on the disk."""
        self.entries = AuditLog(self.folder / "audit", self.clock.now)
        auditor = Auditor(
            *(self.entries, self.folder / "audited.json", self.clock),
            lambda: empty(MeshId("m" * 32)),
            lambda: "",
            Open,
        )
        diary = Diary(lambda: auditor.head, auditor.note)
        kept = self.folder / "witnessed.json"
        self.witness = Witness(self.book, diary, lambda peer: "ws", kept, self.clock)

    def happened(self, times: int = 1) -> None:
        for number in range(times):
            self.entries.write(Entry(What.DELETED, "owner", f"run {number}"))

    def told(self, what: What) -> list[Entry]:
        lines = read_log(self.folder / "audit", 16).lines
        return [line.entry for line in lines if line.entry.what is what]

    async def hears(self, other: Agent) -> None:
        """The other looks and is heard, and then we look."""
        other.clock.time += TELL_SECONDS
        await other.witness.look()
        delta = other.book.since(other.book.writer, Version())
        if delta is not None:
            await self.book.take(delta, None)
        await self.witness.look()


async def agent(folder: Path, stack: AsyncExitStack) -> Agent:
    await asyncio.to_thread(folder.mkdir)
    store, clock = RecordStore(folder / "records.db"), SetClock(1_800_000_000.0)
    stack.callback(store.close)
    book = RecordBook(store, Signer(ec.generate_private_key(ec.SECP256R1())), clock)
    await book.open()
    return Agent(folder, clock, book, stack)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Agent, Agent]]:
    async with AsyncExitStack() as stack:
        yield await agent(tmp_path / "ws-1", stack), await agent(tmp_path / "ws-2", stack)


async def test_the_end_of_a_log_stands_in_the_logs_of_others(two: tuple[Agent, Agent]) -> None:
    here, there = two
    there.happened(3)
    await here.hears(there)
    [line] = here.told(What.WITNESSED)
    assert (line.who, line.name) == (there.book.writer, "ws")
    assert line.why == f"line 3 is {there.entries.head.digest}"


async def test_a_log_that_was_deleted_and_begun_anew_is_noticed_elsewhere(
    two: tuple[Agent, Agent],
) -> None:
    here, there = two
    there.happened(9)
    await here.hears(there)
    there.entries.close()
    for file in (there.folder / "audit").iterdir():
        file.unlink()
    there.start()
    there.happened(2)
    assert not read_log(there.folder / "audit", 16).wrong, "by itself it is whole"
    here.start()  # and who noticed the one end remembers it over a restart
    await here.hears(there)
    [line] = here.told(What.REWRITTEN)
    assert line.who == there.book.writer
    assert line.why.startswith("line 9 was ")


async def test_what_is_no_end_of_a_log_is_left_out(two: tuple[Agent, Agent]) -> None:
    here, there = two
    there.happened()
    await here.hears(there)
    for wrong in (b"\xff", b"", b"\x08\x01\x12\x02xy"):
        await there.book.write([Record(AUDIT, AUDIT, wrong)])
        delta = there.book.since(there.book.writer, Version())
        assert delta is not None
        await here.book.take(delta, None)
        await here.witness.look()
    assert len(here.told(What.WITNESSED)) == 1
    assert here.told(What.REWRITTEN) == []


async def test_an_idle_log_is_told_once(two: tuple[Agent, Agent]) -> None:
    here, there = two
    there.happened()
    await here.hears(there)
    version = there.book.versions()[there.book.writer]
    for _ in range(5):
        await here.hears(there)
    assert there.book.versions()[there.book.writer] == version
