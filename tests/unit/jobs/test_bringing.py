"""Inputs that lie elsewhere are brought from whoever has them."""

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
    """A network where trees lie at addresses."""

    having: set[str]
    here: bool = False
    dialled: list[str] = field(default_factory=list[str])

    async def is_here(self, digest: Digest) -> bool:
        return self.here

    async def fetch(self, peer_id: PeerId, address: Address, digest: Digest) -> int:
        self.dialled.append(address)
        if address not in self.having:
            raise Unreachable(f"{address} does not answer.")
        return 7

    def known(self, peer_id: PeerId) -> tuple[Address, ...]:
        return (Address("bob:9"),) if peer_id == BOB else ()

    def bringer(self) -> Bringer:
        return Bringer(self.is_here, self.fetch, self.known, ME)


SOURCES = (
    Source(ME, (Address("me:1"),)),
    Source(ANA, (Address("ana:1"), Address("ana:2"))),
    Source(BOB, (Address("bob:1"),)),
)


async def test_what_is_here_is_not_fetched() -> None:
    net = Net(set(), here=True)
    assert await net.bringer().bring(DIGEST, SOURCES, "data") == 0
    assert net.dialled == []


async def test_each_address_of_each_source_is_tried_in_order_and_never_our_own() -> None:
    net = Net({"bob:9"})
    assert await net.bringer().bring(DIGEST, SOURCES, "data") == 7
    assert net.dialled == ["ana:1", "ana:2", "bob:1", "bob:9"]


async def test_when_nobody_answers_the_error_says_who_was_asked() -> None:
    with pytest.raises(Unreachable) as unreachable:
        await Net(set()).bringer().bring(DIGEST, SOURCES, "data of calm-ibex-1")
    assert unreachable.value.code == "input-unreachable"
    assert "ana:2" in unreachable.value.why
    assert "data of calm-ibex-1" in unreachable.value.what
