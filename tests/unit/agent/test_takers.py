"""Who brings a tree at the same time is told, for a while and never without bound."""

from dstack_agent.servicers.takers import FRESH_SECONDS, MOST_TAKERS, MOST_TREES, Takers
from dstack_mesh.ids import Digest, PeerId

ANA, BOB = PeerId("a" * 32), PeerId("b" * 32)


def digest(number: int) -> Digest:
    return Digest(number.to_bytes(32))


def test_each_hears_of_the_others_and_never_of_itself() -> None:
    takers = Takers()
    assert takers.join(digest(1), ANA) == []
    assert takers.join(digest(1), BOB) == [ANA]
    assert takers.join(digest(1), ANA) == [BOB]
    assert takers.join(digest(2), ANA) == []
    assert takers.join(digest(1), None) == [ANA, BOB]


def test_who_said_nothing_for_long_is_forgotten() -> None:
    now = [0.0]
    takers = Takers(lambda: now[0])
    takers.join(digest(1), ANA)
    now[0] = FRESH_SECONDS + 1
    assert takers.join(digest(1), BOB) == []


def test_neither_trees_nor_takers_grow_without_bound() -> None:
    takers = Takers()
    for number in range(2 * MOST_TAKERS):
        takers.join(digest(0), PeerId(f"{number:032}"))
    assert len(takers.join(digest(0), None)) == MOST_TAKERS
    for number in range(1, MOST_TREES + 1):
        takers.join(digest(number), ANA)
    assert takers.join(digest(0), BOB) == []
