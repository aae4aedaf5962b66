"""What is told of runs, however many and large they are, fits into what others hold of an agent."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent import hearsay, publishing, shares, sheets
from dstack_agent.hearsay import RUN, SHEET, TAG
from dstack_agent.shares import Share
from dstack_mesh.ids import RunId
from dstack_mesh.records.record import PAYLOAD_BYTES, Entry
from dstack_mesh.records.replica import BOUNDS
from dstack_scheduler.job import ArtifactSaved, Fin, JobKey, JobState, TagRecord
from dstack_scheduler.removal import Removal
from support.eventually import eventually_async
from support.publishers import AT, DIGEST, Agent, change, job, shown, tell
from support.rounds import rounds


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
