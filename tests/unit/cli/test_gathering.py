"""What one holder does not give the next one is asked for."""

from collections.abc import Sequence
from typing import cast

import pytest

from dstack_cli.kept import KeptArtifact
from dstack_cli.reach import Reach
from dstack_cli.remotes.gathering import Gatherer
from dstack_cli.remotes.showing import Showing
from dstack_mesh.faults import Busy, Damaged, MeshError, Missing, TooLate, Unreachable
from dstack_mesh.ids import Digest, PeerId

FIRST, SECOND = PeerId("a" * 32), PeerId("b" * 32)
KEPT = KeptArtifact("out", Digest(bytes(32)), 1, 1, True, (FIRST, SECOND))


class BothAnswer:
    """A reach whose way to a holder is the holder's id."""

    def nearest(self, holders: Sequence[PeerId]) -> Sequence[PeerId]:
        return holders

    def away(self, holder: PeerId) -> None:
        return None

    async def transfer(self, holder: PeerId) -> PeerId:
        return holder


def gatherer() -> Gatherer:
    return Gatherer(cast(Reach, BothAnswer()), cast(Showing, None))


@pytest.mark.parametrize("fault", [Damaged, Missing, TooLate, Unreachable])
async def test_who_fails_is_followed_by_the_next_one(fault: type[MeshError]) -> None:
    async def take(way: object) -> object:
        if way == FIRST:
            raise fault("It does not give it.")
        return way

    assert await gatherer().from_holder(KEPT, take) == SECOND


async def test_a_disk_that_is_full_is_so_whoever_gives() -> None:
    asked: list[object] = []

    async def take(way: object) -> object:
        asked.append(way)
        raise Busy("The disk is full.")

    with pytest.raises(Busy):
        await gatherer().from_holder(KEPT, take)
    assert asked == [FIRST]
