"""Who does not have what it is said to have is found out by asking it."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dstack_agent.doubts import Doubts
from dstack_agent.redundancy import Kept
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Unreachable
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_scheduler.job import JobKey

OWN, OTHER = PeerId("a" * 32), PeerId("b" * 32)
FIRST, SECOND = Digest(b"1" * 32), Digest(b"2" * 32)
KEPT = Kept(JobKey(RunId("0" * 26), 0), (FIRST, SECOND), 1, frozenset({OTHER}))


@pytest.fixture
def said() -> dict[PeerId, set[Digest]]:
    """What who answers says that it has not."""
    return {OTHER: set()}


@pytest.fixture
def doubts(tmp_path: Path, said: dict[PeerId, set[Digest]]) -> Iterator[Doubts]:
    async def lacking(peer: PeerId, digests: Sequence[Digest]) -> frozenset[Digest]:
        if peer not in said:
            raise Unreachable("It does not answer.")
        return frozenset(digests) & said[peer]

    with contextlib.closing(ChunkStore(tmp_path)) as store:
        yield Doubts(OWN, store, lacking)


async def test_who_lacks_a_part_does_not_count(
    doubts: Doubts, said: dict[PeerId, set[Digest]]
) -> None:
    assert not await doubts.ask([KEPT], [OTHER])
    assert doubts.counted([KEPT]) == [KEPT]
    said[OTHER] = {SECOND}
    assert await doubts.ask([KEPT], [OTHER])
    assert [one.holders for one in doubts.counted([KEPT])] == [frozenset()]
    assert not await doubts.ask([KEPT], [OTHER])  # no news


async def test_who_has_it_again_counts_and_who_does_not_answer_counts_as_before(
    doubts: Doubts, said: dict[PeerId, set[Digest]]
) -> None:
    said[OTHER] = {SECOND}
    await doubts.ask([KEPT], [OTHER])
    del said[OTHER]
    await doubts.ask([KEPT], [OTHER])
    assert [one.holders for one in doubts.counted([KEPT])] == [frozenset()]
    said[OTHER] = set()
    assert await doubts.ask([KEPT], [OTHER])
    assert doubts.counted([KEPT]) == [KEPT]
