"""What an agent tells others, and what these pass on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent import hearsay, publishing, shares, sheets
from dstack_agent.database import Database
from dstack_agent.driven import DrivenRuns
from dstack_agent.hearsay import AGENT, LOG, REMOVAL, RUN, SHEET, TAG, Hearsay
from dstack_agent.listing import Listings
from dstack_agent.publishing import Publisher, Sources, essence
from dstack_agent.pulse import Pulse
from dstack_agent.records import Records
from dstack_agent.removals import Removals
from dstack_agent.shares import Share
from dstack_agent.tags import Tags
from dstack_agent.touched import Touched
from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.clock import SystemClock
from dstack_mesh.ids import Address, Digest, MeshId, PeerId, RunId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import NOTHING, PAYLOAD_BYTES, Entry
from dstack_mesh.records.replica import BOUNDS
from dstack_mesh.records.store import RecordStore
from dstack_mesh.signing import Signer
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    JobKey,
    JobSpec,
    JobState,
    StateChange,
    TagRecord,
)
from dstack_scheduler.removal import Removal
from support.eventually import eventually_async
from support.machines import question, spec
from support.rounds import rounds

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


@pytest.fixture
async def ws_1(tmp_path: Path) -> AsyncIterator[Agent]:
    signer = Signer(ec.generate_private_key(ec.SECP256R1()))
    async with opened(tmp_path / "one", "ws-1", signer) as agent:
        task = asyncio.create_task(agent.publisher.run())
        yield agent
        task.cancel()


@pytest.fixture
async def ws_2(tmp_path: Path) -> AsyncIterator[Agent]:
    signer = Signer(ec.generate_private_key(ec.SECP256R1()))
    async with opened(tmp_path / "two", "ws-2", signer) as agent:
        yield agent


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


async def test_each_state_of_a_run_is_told_and_replaces_the_one_before(
    ws_1: Agent, ws_2: Agent
) -> None:
    asked = question()
    await ws_1.records.accept(job(asked.key), ("GPU-1",))
    for state in (JobState.PREPARING, JobState.RUNNING):
        await ws_1.records.enter(change(asked.key, state))

    async def runs() -> bool:
        await tell(ws_1, ws_2)
        tellings = ws_2.hearsay.tellings(())
        return (
            bool(tellings)
            and bool(tellings[0].runs)
            and (tellings[0].runs[0].jobs[0].state.state is JobState.RUNNING)
        )

    await eventually_async(runs, within=5)
    [telling] = ws_2.hearsay.tellings(())
    assert (telling.agent_id, telling.agent_name) == (ws_1.book.writer, "ws-1")
    assert telling.runs[0].jobs[0].agent_id == ws_1.book.writer
    assert len(list(ws_1.book.own(RUN))) == 1
    assert ws_2.hearsay.tellings(("lazy-b",))[0].runs == telling.runs
    assert not any(each.runs for each in ws_2.hearsay.tellings(("other",)))


async def test_artifacts_and_tags_are_told(ws_1: Agent, ws_2: Agent) -> None:
    asked = question()
    await ws_1.records.accept(job(asked.key), ())
    await ws_1.records.save_artifact(ArtifactSaved(asked.key, "model", DIGEST, 1, 5, True))
    await ws_1.tags.state(TagRecord("repo", "v1", asked.key.run_id, "lazy-bobcat-1", AT))
    await shown(ws_1, TAG, 1)

    async def told() -> bool:
        await tell(ws_1, ws_2)
        [telling] = ws_2.hearsay.tellings(())
        return bool(telling.runs and telling.runs[0].jobs[0].copies and telling.tags)

    await eventually_async(told, within=5)


async def test_a_removed_run_is_told_no_more_and_that_it_was_removed_is(
    ws_1: Agent, ws_2: Agent
) -> None:
    asked = question()
    await ws_1.records.accept(job(asked.key), ())
    await ws_1.records.enter(change(asked.key, JobState.DONE, 0))
    await shown(ws_1, RUN, 1)
    await tell(ws_1, ws_2)
    assert ws_2.hearsay.tells_of(asked.key.run_id)
    removal = Removal(asked.key.run_id, datetime.now(UTC), ws_1.book.writer, checked=True)
    await ws_1.removals.state(removal)
    await shown(ws_1, RUN, 0)
    await shown(ws_1, REMOVAL, 1)
    await tell(ws_1, ws_2)
    [telling] = ws_2.hearsay.tellings(())
    assert (telling.runs, telling.removed) == ((), (removal,))
    assert list(ws_2.hearsay.removals()) == [removal]


async def test_of_a_revoked_agent_only_what_had_ended_is_told(ws_1: Agent, ws_2: Agent) -> None:
    over, going_on = question(), question(key=JobKey(RunId("01HG00000000000000000000G0"), 0, 1))
    for asked, state in ((over, JobState.DONE), (going_on, JobState.RUNNING)):
        await ws_1.records.accept(job(asked.key), ())
        await ws_1.records.enter(change(asked.key, state, 0 if state.ended else None))
    await ws_1.tags.state(TagRecord("repo", "v1", over.key.run_id, "lazy-bobcat-1", AT))
    await shown(ws_1, TAG, 1)

    async def told() -> bool:
        await tell(ws_1, ws_2)
        return any(len(each.runs) == 2 for each in ws_2.hearsay.tellings(()))

    await eventually_async(told, within=5)
    ws_2.disbelieved.add(ws_1.book.writer)
    ws_2.book.reconsider()
    [telling] = ws_2.hearsay.tellings(())
    assert [run.run_id for run in telling.runs] == [over.key.run_id]
    assert (telling.revoked, telling.answers, telling.tags) == (True, False, ())
    assert telling.agent_name == "ws-1"
    assert not ws_2.hearsay.adverts()


async def test_the_end_of_a_log_is_kept_when_its_job_ended(
    ws_1: Agent, ws_2: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reader:
        """Gives the bytes of a log of 10,000 bytes of "o" and 3 of "e"."""

        def __init__(self, path: Path) -> None:
            pass

        def read(self, stdout: int, stderr: int, most: int) -> list[object]:
            from dstack_agent.logs.journal import Frame
            from dstack_scheduler.job import LogStream

            found: list[object] = []
            if stdout < 10_000:
                found.append(Frame(LogStream.STDOUT, stdout, b"o" * (10_000 - stdout), 0))
            if stderr < 3:
                found.append(Frame(LogStream.STDERR, stderr, b"e" * (3 - stderr), 0))
            return found

        def close(self) -> None:
            pass

    monkeypatch.setattr(publishing, "JournalReader", Reader)
    asked = question()
    await ws_1.records.accept(job(asked.key), ())
    done = change(asked.key, JobState.DONE, 0)
    await ws_1.records.finish(Fin(asked.key, done, 10_000, DIGEST, 3, DIGEST))
    await shown(ws_1, LOG, 1)
    await tell(ws_1, ws_2)
    [tail] = ws_2.hearsay.tails(asked.key.run_id)
    assert (tail.stdout_bytes, tail.stdout, tail.stderr) == (10_000, b"o" * 4096, b"eee")
    assert ws_2.hearsay.tails(RunId("9" * 26)) == ()


async def test_who_we_are_is_told_again_only_when_it_changed_and_not_too_often(
    ws_1: Agent, ws_2: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shown(ws_1, AGENT, 1)
    ws_1.answers.append(replace(answer_of(ws_1.card), state=AgentState.PAUSED))
    soon = ws_1.book.versions()
    await ws_1.publisher.advertise()
    assert ws_1.book.versions() == soon
    ws_1.answers.pop()
    monkeypatch.setattr(publishing, "ADVERT_SECONDS", 0.0)
    before = ws_1.book.versions()
    ws_1.answers.append(answer_of(ws_1.card, free=(8 << 30) + 1))
    await ws_1.publisher.advertise()
    assert ws_1.book.versions() == before
    ws_1.answers.append(replace(answer_of(ws_1.card), state=AgentState.DRAINING))
    await ws_1.publisher.advertise()
    assert ws_1.book.versions() != before
    await tell(ws_1, ws_2)
    [advert] = ws_2.hearsay.adverts()
    assert (advert.said.card.name, advert.said.state) == ("ws-1", AgentState.DRAINING)
    assert not advert.answers


async def test_when_an_agent_was_heard_is_the_later_of_its_word_and_its_answer(
    ws_1: Agent, ws_2: Agent
) -> None:
    await shown(ws_1, AGENT, 1)
    await tell(ws_1, ws_2)
    [advert] = ws_2.hearsay.adverts()
    assert abs(advert.heard_at - datetime.now(UTC)) < timedelta(seconds=10)
    ws_2.known[:] = [KnownAgent(ws_1.card, ws_1.card.addresses, "seed", "alive", ws_1.answers[-1])]
    [advert] = ws_2.hearsay.adverts()
    assert advert.answers
    heard = advert.heard_at
    ws_2.known.clear()
    [advert] = ws_2.hearsay.adverts()
    assert not advert.answers
    assert abs(heard - advert.heard_at) < timedelta(seconds=1)


async def test_a_record_that_cannot_be_read_hides_no_other(ws_1: Agent, ws_2: Agent) -> None:
    run_id = question().key.run_id
    await ws_2.book.write([Entry(RUN, "x", b"\xff\xff"), Entry(TAG, "y", b"\xff")])
    await ws_1.records.accept(job(question().key), ())
    await shown(ws_1, RUN, 1)
    await tell(ws_2, ws_1)
    assert all(not each.runs for each in ws_1.hearsay.tellings(()))
    await tell(ws_1, ws_2)
    assert [run.run_id for each in ws_2.hearsay.tellings(()) for run in each.runs] == [run_id]


async def test_a_row_that_cannot_be_read_holds_up_no_other_run(ws_1: Agent, ws_2: Agent) -> None:
    bad, good = JobKey(RunId("8" * 26), 0), JobKey(RunId("7" * 26), 0)
    fin = Fin(bad, replace(change(bad, JobState.FAILED, 1), cause="\0"), 0, DIGEST, 0, DIGEST)
    await ws_1.records.accept(job(bad), ())
    await ws_1.records.finish(fin)
    await ws_1.records.accept(job(good), ())
    await shown(ws_1, RUN, 1)
    await tell(ws_1, ws_2)
    assert [run.run_id for each in ws_2.hearsay.tellings(()) for run in each.runs] == [good.run_id]


async def test_what_is_too_much_is_let_go_the_oldest_first(
    ws_1: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "RUNS", Share(3, 1, 1 << 20))
    for number in range(1, 9):
        key = JobKey(RunId(f"{number:026d}"), 0)
        await ws_1.records.accept(job(key), ())
        await asyncio.sleep(0.06)

    async def few() -> bool:
        keys = {record.entry.key for record in ws_1.book.own(RUN)}
        return len(keys) <= 4 and f"{8:026d}" in keys

    await eventually_async(few, within=5)
    stream = ws_1.book.streams[ws_1.book.writer]
    assert sum(kind == RUN for kind, _ in stream.records) <= 4  # nothing is left of the others


async def test_the_largest_runs_an_agent_can_have_never_outgrow_what_others_hold(
    ws_1: Agent, ws_2: Agent
) -> None:
    """`DSTACK_CHAOS_ROUNDS=1200` fills all that is listed."""
    runs = rounds(250)
    large = {"a": "x" * 45_000}
    for number in range(1, runs + 1):
        key = JobKey(RunId(f"{number:026d}"), 0)
        await ws_1.records.accept(replace(job(key), variables=large), ())

    async def newest() -> bool:
        return any(record.entry.key == f"{runs:026d}" for record in ws_1.book.own(RUN))

    await eventually_async(newest, within=60)
    assert 0 < ws_1.book.streams[ws_1.book.writer].size_bytes <= shares.RUNS.most_bytes + (1 << 16)
    await tell(ws_1, ws_2)
    assert ws_1.book.writer in ws_2.book.streams


def test_all_shares_together_fit_into_what_others_hold_of_an_agent() -> None:
    all_of_them = [
        *(shares.RUNS, shares.TAGGED, shares.TAGS),
        *(shares.REMOVALS, shares.LOGS, shares.EVIDENCES, shares.COPIES),
    ]
    advert = 1
    assert sum(one.most + one.spare for one in all_of_them) + advert <= BOUNDS.records
    assert sum(one.most_bytes for one in all_of_them) + (1 << 16) <= BOUNDS.stream_bytes


@given(st.lists(st.integers(0, PAYLOAD_BYTES), max_size=60), st.integers(0, 40), st.integers(0, 9))
def test_what_is_kept_of_a_kind_fits_its_share_and_is_the_newest(
    sizes: list[int], most: int, spare: int
) -> None:
    share = Share(most, spare, 20 * PAYLOAD_BYTES)
    entries = [Entry(RUN, f"{at:03d}", bytes(size)) for at, size in enumerate(sizes)]
    gone = share.too_much(entries)
    kept = entries[len(gone) :]
    assert list(gone) == entries[: len(gone)]
    assert len(kept) <= most + spare
    assert sum(len(one.payload) for one in kept) <= share.most_bytes
    assert not share.too_much(kept)


def test_runs_that_a_tag_names_outlive_others_and_are_bounded_too() -> None:
    large = bytes(PAYLOAD_BYTES)
    runs = [Entry(RUN, f"{number:03d}", large) for number in range(200)]
    tagged = {run.key for run in runs[:10]}
    gone = {run.key for run in shares.runs_too_much(runs, tagged)}
    assert not gone & tagged and gone
    assert {run.key for run in shares.runs_too_much(runs, {run.key for run in runs})} >= {"000"}


async def large_run(agent: Agent, jobs: int, number: int = 0) -> RunId:
    """A run whose jobs each kept something."""
    run_id = RunId(f"{number:026d}")
    for index in range(jobs):
        key = JobKey(run_id, index)
        await agent.records.accept(replace(job(key), job_count=jobs), ())
        await agent.records.save_artifact(ArtifactSaved(key, "out/model", DIGEST, 1, 5, True))
        await agent.records.finish(Fin(key, change(key, JobState.DONE, 0), 0, DIGEST, 0, DIGEST))
    return run_id


def kept(agent: Agent, run_id: RunId) -> int:
    """Of how many jobs others hear what they kept."""
    runs = [run for one in agent.hearsay.tellings((run_id,)) for run in one.runs]
    return sum(bool(one.artifacts and one.copies) for run in runs for one in run.jobs)


async def test_what_five_hundred_jobs_kept_is_told_in_records_of_no_more_than_their_size(
    ws_1: Agent, ws_2: Agent
) -> None:
    run_id = await large_run(ws_1, 500)

    async def is_told() -> bool:
        await tell(ws_1, ws_2)
        return kept(ws_2, run_id) == 500

    await eventually_async(is_told, within=30)
    stream = ws_2.book.streams[ws_1.book.writer]
    assert all(len(record.entry.payload) <= PAYLOAD_BYTES for record in stream.records.values())
    [whole] = [run for one in ws_2.hearsay.everybody() for run in one.runs]
    assert [one.key.job for one in whole.jobs] == list(range(500))
    before = {record.entry.key: record.place for record in ws_1.book.own(SHEET)}
    await ws_1.records.enter(change(JobKey(run_id, 70), JobState.FAILED, 1))

    async def is_changed() -> bool:
        return before != {record.entry.key: record.place for record in ws_1.book.own(SHEET)}

    await eventually_async(is_changed, within=5)
    after = {record.entry.key: record.place for record in ws_1.book.own(SHEET)}
    assert sum(before[key] != place for key, place in after.items()) == 1  # one sheet, not all
    await ws_1.removals.state(Removal(run_id, datetime.now(UTC), ws_1.book.writer, checked=True))
    await shown(ws_1, SHEET, 0)
    await shown(ws_1, RUN, 0)


async def test_sheets_that_a_run_has_no_more_are_taken_back(
    ws_1: Agent, ws_2: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "PAYLOAD_BYTES", 600)
    run_id = await large_run(ws_1, 6)

    async def many() -> bool:
        await tell(ws_1, ws_2)
        return kept(ws_2, run_id) == 6

    await eventually_async(many, within=5)
    assert len(list(ws_1.book.own(SHEET))) > 1
    monkeypatch.setattr(sheets, "PAYLOAD_BYTES", PAYLOAD_BYTES)
    await ws_1.records.enter(change(JobKey(run_id, 0), JobState.FAILED, 1))
    await shown(ws_1, SHEET, 0)
    await tell(ws_1, ws_2)
    assert kept(ws_2, run_id) == 6


async def test_a_large_run_that_has_no_room_hides_no_other(
    ws_1: Agent, ws_2: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearsay, "MOST_BYTES", 20_000)
    small, large = await large_run(ws_1, 1, number=1), await large_run(ws_1, 200, number=2)

    async def is_told() -> bool:
        await tell(ws_1, ws_2)
        [heard] = ws_2.hearsay.everybody()
        return [len(run.jobs) for run in sorted(heard.runs, key=lambda r: r.run_id)] == [1, 200]

    await eventually_async(is_told, within=5)
    assert (kept(ws_2, small), kept(ws_2, large)) == (1, 0)
    [telling] = ws_2.hearsay.tellings(())
    assert [run.run_id for run in telling.runs] == [small]


@given(st.lists(st.tuples(st.integers(0, PAYLOAD_BYTES), st.integers(0, 12)), max_size=30))
def test_what_is_let_go_of_runs_are_whole_runs_the_oldest_first(
    sizes: list[tuple[int, int]],
) -> None:
    runs = [
        [Entry(RUN, f"{at:03d}", bytes(size))]
        + [Entry(SHEET, f"{at:03d}/{part:03d}", bytes(PAYLOAD_BYTES)) for part in range(parts)]
        for at, (size, parts) in enumerate(sizes)
    ]
    entries = [entry for run in runs for entry in run]
    gone = shares.runs_too_much(reversed(entries), ())
    left = entries[len(gone) :]
    assert list(gone) == entries[: len(gone)]
    assert not left or left[0].kind == RUN
    assert sum(len(one.payload) for one in left) <= shares.RUNS.most_bytes


async def test_of_very_many_tags_the_newest_are_told(
    ws_1: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "TAGS", Share(3, 1, 1 << 20))
    told = [TagRecord("repo", f"v{n}", None, "", AT + timedelta(hours=n)) for n in range(9)]
    for tag in told:
        await ws_1.tags.state(tag)

        async def is_told(key: str = publishing.tag_key(tag)) -> bool:
            return ws_1.book.has_own(TAG, key)

        await eventually_async(is_told, within=5)
    assert len(list(ws_1.book.own(TAG))) <= 4


def test_rough_steps_hide_what_changes_all_the_time() -> None:
    card = PeerCard(RunId("p"), MeshId("m"), "ws", (), "", True)  # pyright: ignore[reportArgumentType]
    one = answer_of(card)
    assert essence(one) == essence(answer_of(card, free=(8 << 30) + 1000))
    assert essence(one) != essence(answer_of(card, free=1 << 30))
