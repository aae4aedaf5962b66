"""However many and large its runs are, an agent tells all of them, in answers that gRPC takes."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.servicers.pages import page_of
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.ids import PeerId, RunName
from dstack_mesh.run_ids import run_id
from dstack_mesh.trust.membership import Role
from dstack_mesh.v1 import run_pb2 as pb
from dstack_scheduler.agent_port import Listing, Telling
from dstack_scheduler.job import (
    ArtifactSaved,
    JobKey,
    JobRecord,
    JobState,
    RunRecord,
    StateChange,
    TagRecord,
)
from dstack_scheduler.wire import agent, convert
from dstack_scheduler.wire.agent import GrpcAgent
from support.asked_runs import asked_by
from support.meshes import Mesh, card_of

AT = datetime(2026, 11, 26, tzinfo=UTC)
GRPC_BYTES = 4 << 20
SMALL_BYTES = 4 << 10


def run(number: int, jobs: int) -> RunRecord:
    """A run whose every job kept something."""
    name = run_id(number, 0, PeerId("a" * 32))
    keys = [JobKey(name, index) for index in range(jobs)]
    kept = [
        ArtifactSaved(key, "checkpoints", digest_of(str(key).encode()), 3, 99, True) for key in keys
    ]
    told = [
        JobRecord(key, "train", "bash", StateChange(key, JobState.DONE, AT), artifacts=(one,))
        for key, one in zip(keys, kept, strict=True)
    ]
    return RunRecord(
        name, RunName(f"calm-ibex-{number}"), "train", "ana", AT, jobs, jobs=tuple(told)
    )


def much(runs: int = 60, jobs: int = 500) -> Listing:
    """More than gRPC takes in one answer."""
    told = tuple(run(number, jobs) for number in range(runs, 0, -1))
    tag = TagRecord("lab/digits", "v1", told[-1].run_id, told[-1].run_name, AT)
    other = Telling(PeerId("b" * 32), "ws-2", AT, True, AT, (run(1000, 3),), ())
    return Listing(told, (tag,), (other,), for_all=True)


async def listed(channel: grpc.aio.Channel, folder: Path) -> Listing:
    """What a command reads of an agent."""
    store = ChunkStore(folder / "ours")
    try:
        card = card_of(Mesh.make(folder / "other").root, "ws-1")
        return await GrpcAgent(channel, card, False, store).list_runs()
    finally:
        store.close()


async def test_all_runs_are_told_however_large_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "OLDER_SECONDS", 60.0)  # others run beside
    known = much()
    assert convert.listing_to_wire(known).ByteSize() > GRPC_BYTES
    async with asked_by(Role.READER, tmp_path, listing=known) as (stub, _, channel):
        first = await stub.List(pb.ListRequest(), timeout=5)
        assert first.more and first.ByteSize() < GRPC_BYTES
        assert await listed(channel, tmp_path) == known


async def test_a_run_as_large_as_an_answer_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "OLDER_SECONDS", 60.0)  # others run beside
    known = replace(much(1, 10_000), others=(replace(much().others[0], runs=much(25).runs),))
    assert convert.listing_to_wire(known).ByteSize() > GRPC_BYTES
    assert convert.run_record_to_wire(known.runs[0]).ByteSize() < GRPC_BYTES
    async with asked_by(Role.READER, tmp_path, listing=known) as (_, _, channel):
        assert await listed(channel, tmp_path) == known


async def test_of_a_long_history_the_newest_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "OLDER_SECONDS", 0.0)
    known = much()
    async with asked_by(Role.READER, tmp_path, listing=known) as (_, _, channel):
        cut = await listed(channel, tmp_path)
    told = cut.runs
    assert cut.cut
    assert told == known.runs[: len(told)]
    assert 0 < len(told) < len(known.runs)


@given(st.lists(st.integers(1, 30), max_size=9), st.integers(0, 9))
def test_pages_have_each_run_once_and_all_else_once(jobs: list[int], small: int) -> None:
    runs = tuple(run(number, count) for number, count in enumerate([*jobs, *[1] * small]))[::-1]
    known = replace(much(1, 1), runs=runs)
    told: list[str] = []
    more, pages = True, 0
    while more:
        before = told[-1] if told else agent.BEHIND_ALL if pages else ""
        pages += 1
        beside = Listing((), ()) if before else replace(known, runs=())
        left = iter([one for one in runs if not before or one.run_id < before])
        page = page_of(beside, left, SMALL_BYTES)
        assert not page.more or len(list(left)) >= len(runs) - len(told) - len(page.runs) - 1
        assert bool(page.tags and page.others and page.for_all) == (not before)
        sizes = [one.ByteSize() for one in page.runs]
        assert len(sizes) < 2 or sum(sizes) <= SMALL_BYTES
        told += [one.run_id for one in page.runs]
        more = page.more
    assert told == [one.run_id for one in runs]
