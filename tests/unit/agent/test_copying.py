"""Copies are told of, made and let go of whatever fails once, and however many jobs a run has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_agent.copying import SLEPT_SECONDS, Copying, Surroundings
from dstack_agent.hearsay import COPIES, Hearsay
from dstack_agent.holdings import MOST_IN_ONE, Holdings
from dstack_agent.pulse import Pulse
from dstack_agent.redundancy import Pace, Redundancy
from dstack_agent.removing import REST_SECONDS
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Busy, Unreachable
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import Version
from dstack_mesh.records.replica import Outcome
from dstack_mesh.records.store import RecordStore
from dstack_mesh.signing import Signer
from dstack_scheduler.job import JobKey, RunRecord, Source
from support.copier import KEY, OTHER, RUN_ID, Agent, CountingShelf, Records, is_here
from support.eventually import eventually_async
from support.machines import SetClock


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"kept")
    records, store = Records(tmp_path / "records.db"), ChunkStore(tmp_path / "chunks")
    clock = SetClock(1_800_000_000.0)
    book = RecordBook(records, Signer(ec.generate_private_key(ec.SECP256R1())), clock)
    await book.open()
    others: list[KnownAgent] = []
    hearsay = Hearsay(book, Pulse(lambda: others, clock), clock)
    holdings = Holdings(book, hearsay, lambda _: ())
    brought: list[Digest] = []
    lost: dict[PeerId, set[Digest]] = {}
    inherited: list[tuple[RunRecord, PeerId]] = []

    async def bring(digest: Digest, sources: Sequence[Source], most_bytes: int) -> int:
        assert most_bytes == 4  # as its job said
        brought.append(digest)
        return 4

    async def has(peer: PeerId, digest: Digest) -> bool:
        return True

    async def inherit(run: RunRecord, teller: PeerId) -> None:
        inherited.append((run, teller))

    async def lacking(peer: PeerId, digests: Sequence[Digest]) -> frozenset[Digest]:
        if peer not in {one.card.peer_id for one in others}:
            raise Unreachable("It does not answer.")
        return frozenset(lost.get(peer, set()).intersection(digests))

    around = Surroundings(
        agents=lambda: others,
        may_run=lambda _: True,
        state=lambda: AgentState.ALIVE,
        room=lambda: 1 << 40,
        lacking=lacking,
        inherit=inherit,
        bring=bring,
        has=has,
    )
    core = Redundancy(book.writer, Pace())
    copying = Copying(book, hearsay, holdings, store, around, clock, core)
    digest = save_tree(store, tmp_path / "tree").digest
    yield Agent(
        book, holdings, store, clock, digest, copying, records, brought, others, lost, inherited
    )
    store.close()
    records.close()


async def test_of_a_run_with_more_jobs_than_a_record_has_room_for_all_are_told_of(
    agent: Agent,
) -> None:
    keys = [replace(KEY, job=number) for number in range(MOST_IN_ONE + 1)]
    await agent.holdings.add(*keys)
    assert agent.holdings.own() == set(keys)
    assert len(list(agent.book.own(COPIES))) > 16


async def test_what_is_told_at_the_same_time_is_all_told(agent: Agent) -> None:
    keys = [replace(KEY, attempt=number + 1) for number in range(20)]  # one record
    await asyncio.gather(*map(agent.holdings.add, keys))
    assert agent.holdings.own() == set(keys)
    await asyncio.gather(*(agent.holdings.remove([key]) for key in keys[1:]))
    assert agent.holdings.own() == {keys[0]}


async def test_of_more_than_there_is_room_for_the_first_ones_are_told(agent: Agent) -> None:
    keys = [replace(KEY, attempt=number + 1) for number in range(MOST_IN_ONE + 1)]
    with pytest.raises(Busy):
        await agent.holdings.add(*keys)
    assert agent.holdings.own() == set(keys[:MOST_IN_ONE])


async def test_what_finds_no_room_to_be_told_of_hinders_nothing_else(agent: Agent) -> None:
    await agent.fill()
    await agent.tell_of(KEY, replace(KEY, job=1))
    agent.keep()
    await agent.look()
    assert replace(KEY, job=1) in agent.holdings.own()
    assert KEY not in agent.holdings.own()


async def test_a_copy_that_could_not_be_told_of_is_not_brought(agent: Agent) -> None:
    agent.others.append(is_here(OTHER))
    await agent.fill()
    await agent.tell_of(KEY)
    await agent.look()
    assert agent.brought == []


async def test_a_copy_that_is_lacking_is_brought_and_told_of(agent: Agent) -> None:
    """The negative control: there is room."""
    agent.others.append(is_here(OTHER))
    await agent.tell_of(KEY)
    await agent.look()
    assert agent.brought == [agent.digest]
    assert agent.holdings.own() == {KEY}


async def test_what_a_look_could_not_do_the_next_one_does(agent: Agent) -> None:
    await agent.tell_of(KEY)
    agent.keep()
    kept, aside = agent.store.shelf.kept, agent.store.shelf.kept.with_name("aside")
    kept.rename(aside)
    with pytest.raises(ExceptionGroup):  # as `run` finds it, which looks again
        await agent.look()
    assert agent.holdings.own() == set()
    aside.rename(kept)
    await agent.look()
    assert agent.holdings.own() == {KEY}


async def test_an_agent_goes_on_whose_first_look_fails(agent: Agent) -> None:
    await agent.holdings.add(KEY)
    await agent.tell_of(KEY)
    kept, aside = agent.store.shelf.kept, agent.store.shelf.kept.with_name("aside")
    kept.rename(aside)
    running = asyncio.create_task(agent.copying.run(first_seconds=0.0))
    await asyncio.wait([running], timeout=0.5)
    assert not running.done()
    aside.rename(kept)

    async def told() -> bool:
        return not agent.holdings.own()  # it was never here

    await eventually_async(told, within=10)
    running.cancel()


async def test_the_copy_of_a_removed_run_rests_from_when_we_heard_of_it(agent: Agent) -> None:
    agent.keep()
    await agent.holdings.add(KEY)
    await agent.remove()
    await looks(agent, REST_SECONDS)
    assert agent.holdings.own() == {KEY}
    await looks(agent, SLEPT_SECONDS)
    assert agent.holdings.own() == set()
    assert RUN_ID not in agent.store.shelf.owners()


async def test_who_slept_waits_for_a_tag_before_a_copy_goes(agent: Agent) -> None:
    agent.keep()
    await agent.holdings.add(KEY)
    await agent.remove()
    await agent.look()
    agent.clock.time += 10 * REST_SECONDS
    await agent.look()
    await agent.tag()
    await looks(agent, 2 * REST_SECONDS)
    assert agent.holdings.own() == {KEY}


async def test_what_came_in_part_goes_with_its_run(agent: Agent) -> None:
    agent.keep()  # and nobody was told: the rest of it did not come
    await agent.remove()
    await looks(agent, REST_SECONDS + SLEPT_SECONDS)
    assert RUN_ID not in agent.store.shelf.owners()


async def test_a_copy_that_could_not_be_let_go_of_goes_at_the_next_look(agent: Agent) -> None:
    agent.keep()
    await agent.holdings.add(KEY)
    await agent.remove()
    await looks(agent, REST_SECONDS)
    kept, aside = agent.store.shelf.kept, agent.store.shelf.kept.with_name("aside")
    kept.rename(aside)
    agent.clock.time += SLEPT_SECONDS
    with pytest.raises(ExceptionGroup):
        await agent.look()
    aside.rename(kept)
    await agent.look()
    assert agent.holdings.own() == set()
    assert RUN_ID not in agent.store.shelf.owners()


async def test_what_ran_here_is_not_let_go_of_as_a_copy(agent: Agent) -> None:
    agent.keep()
    await agent.tell_of(KEY, by=agent.book.writer)
    await agent.remove()
    await looks(agent, 2 * REST_SECONDS)
    assert RUN_ID in agent.store.shelf.owners()


async def test_what_is_over_goes_though_nothing_can_be_written_down(agent: Agent) -> None:
    agent.keep()
    await agent.remove()
    await looks(agent, REST_SECONDS)
    other = RunId("1" * 26)
    await agent.tell_of(JobKey(other, 0))
    agent.store.keep(agent.digest, other)  # and so it is to be told of
    agent.records.is_full = True
    agent.clock.time += SLEPT_SECONDS
    with pytest.raises(ExceptionGroup):
        await agent.look()
    assert agent.store.shelf.owners() == {other}
    agent.records.is_full = False
    await agent.look()
    assert agent.holdings.own() == {JobKey(other, 0)}


async def test_thousands_of_copies_are_looked_up_together(agent: Agent) -> None:
    shelf = agent.store.shelf = CountingShelf(agent.store.folder, 3600)
    keys = [replace(KEY, job=number) for number in range(100)]
    agent.others.append(is_here(OTHER))
    await agent.tell_of(*keys)
    agent.keep()
    await agent.look()
    assert agent.holdings.own() == set(keys)
    assert shelf.counted <= 2  # for what is here, and for what is lost


async def test_what_is_lacking_is_brought_one_after_the_other_without_a_pause(
    agent: Agent,
) -> None:
    keys = [replace(KEY, job=number) for number in range(10)]
    agent.others.append(is_here(OTHER))
    await agent.tell_of(*keys)
    await agent.look()
    assert agent.holdings.own() == set(keys)


async def test_who_lost_what_its_job_kept_counts_no_more(agent: Agent) -> None:
    third = PeerId("c" * 32)
    agent.others += [is_here(OTHER), is_here(third)]
    await agent.tell_of(KEY, copies=(third,))
    await agent.look()
    await agent.copying.ask()
    await agent.look()
    assert agent.brought == []  # two have it
    agent.lost[OTHER] = {agent.digest}
    await agent.copying.ask()
    await agent.look()
    assert agent.brought == [agent.digest]


async def test_what_this_agent_lost_itself_is_brought_again(agent: Agent) -> None:
    agent.others.append(is_here(OTHER))
    await agent.tell_of(KEY, by=agent.book.writer, copies=(OTHER,))
    await agent.look()
    await agent.copying.ask()
    await agent.look()
    assert agent.brought == []
    agent.store.shelf.path(agent.digest).unlink()
    await agent.copying.ask()
    await agent.look()
    await agent.look()
    assert agent.brought == [agent.digest]  # once


@pytest.mark.parametrize("days", [14, 16])
async def test_a_run_of_who_is_silent_for_long_is_remembered_by_who_has_a_copy(
    agent: Agent, tmp_path: Path, days: int
) -> None:
    with contextlib.closing(RecordStore(tmp_path / "other.db")) as records:
        clock = SetClock(agent.clock.time - days * 86_400)
        other = RecordBook(records, Signer(ec.generate_private_key(ec.SECP256R1())), clock)
        await other.open()
        await agent.tell_of(KEY, book=other)
        delta = other.since(other.writer, Version())
    assert delta is not None and await agent.book.take(delta, None) is Outcome.TAKEN
    await agent.look()
    assert agent.inherited == []  # there is no copy here
    await agent.holdings.add(KEY)
    await agent.copying.inherit()
    await agent.copying.inherit()
    assert [teller for _, teller in agent.inherited] == ([other.writer] if days > 15 else [])
    assert all(run.jobs[0].artifacts for run, _ in agent.inherited)


async def looks(agent: Agent, seconds: float) -> None:
    """Time passes while the agent is awake."""
    for _ in range(int(seconds / SLEPT_SECONDS)):
        await agent.look()
        agent.clock.time += SLEPT_SECONDS
    await agent.look()
