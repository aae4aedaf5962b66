"""Inputs that lie elsewhere are brought from whoever has them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from dstack_agent.jobs.bringing import Bringer
from dstack_mesh.faults import Unreachable
from dstack_mesh.ids import Address, Digest, PeerId
from dstack_scheduler.job import Source

DIGEST = Digest(b"d" * 32)
ME, ANA, BOB = (PeerId(letter * 32) for letter in "abc")


@dataclass
class Net:
    """A network where trees lie with peers."""

    having: set[PeerId]
    here: bool = False
    asked: list[PeerId] = field(default_factory=list[PeerId])

    async def is_here(self, digest: Digest) -> bool:
        return self.here

    async def fetch(self, digest: Digest, sources: Sequence[Source]) -> int:
        self.asked += [source.peer_id for source in sources]
        if not self.having.intersection(self.asked):
            raise Unreachable("Nobody gives these files.", "ana:2 does not answer.")
        return 7

    def bringer(self) -> Bringer:
        return Bringer(self.is_here, self.fetch, ME)


SOURCES = (
    Source(ME, (Address("me:1"),)),
    Source(ANA, (Address("ana:1"), Address("ana:2"))),
    Source(BOB, (Address("bob:1"),)),
)


async def test_what_is_here_is_not_fetched() -> None:
    net = Net(set(), here=True)
    assert await net.bringer().bring(DIGEST, SOURCES, "data") == 0
    assert net.asked == []


async def test_all_sources_are_asked_and_never_we_ourselves() -> None:
    net = Net({BOB})
    assert await net.bringer().bring(DIGEST, SOURCES, "data") == 7
    assert net.asked == [ANA, BOB]


async def test_what_nobody_else_has_is_asked_of_nobody() -> None:
    net = Net(set())
    with pytest.raises(Unreachable):
        await net.bringer().bring(DIGEST, SOURCES[:1], "data")
    assert net.asked == []


async def test_when_nobody_answers_the_error_says_who_was_asked() -> None:
    with pytest.raises(Unreachable) as unreachable:
        await Net(set()).bringer().bring(DIGEST, SOURCES, "data of calm-ibex-1")
    assert unreachable.value.code == "input-unreachable"
    assert "ana:2" in unreachable.value.why
    assert "data of calm-ibex-1" in unreachable.value.what
