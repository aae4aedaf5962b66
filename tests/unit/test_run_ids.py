"""Ids of runs: they sort by time, and say whose a run is."""

import re

from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.run_ids import is_of, run_id

PEERS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=32, max_size=32).map(PeerId)
TIMES = st.integers(0, 2**48 - 1)
CHANCES = st.integers(0, 2**20 - 1)


@given(st.tuples(TIMES, CHANCES), st.tuples(TIMES, CHANCES), PEERS)
def test_run_ids_sort_by_time_then_chance(
    one: tuple[int, int], other: tuple[int, int], peer: PeerId
) -> None:
    assert (run_id(*one, peer) < run_id(*other, peer)) == (one < other)
    assert re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", run_id(*one, peer))


@given(TIMES, CHANCES, PEERS, PEERS)
def test_a_run_id_is_of_whoever_made_it_and_of_nobody_else(
    time: int, chance: int, peer: PeerId, other: PeerId
) -> None:
    made = run_id(time, chance, peer)
    assert is_of(made, peer)
    assert is_of(made, other) is (peer == other)
    assert not is_of(made, PeerId("")), "nor of a home without a key"


@given(
    TIMES, CHANCES, PEERS, st.integers(0, 25), st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
)
def test_a_changed_id_is_nobody_s(
    time: int, chance: int, peer: PeerId, place: int, character: str
) -> None:
    made = run_id(time, chance, peer)
    changed = RunId(made[:place] + character + made[place + 1 :])
    assert is_of(changed, peer) is (changed == made)


def test_what_is_no_id_is_nobody_s() -> None:
    peer, nobody = PeerId("a" * 32), PeerId("")
    assert not is_of(run_id(1, 2, nobody), nobody)
    made = run_id(1_700_000_000_000, 7, peer)
    for wrong in ("", "0" * 26, made.lower(), made[:-1], f"{made}0", "U" * 26, "é" * 26):
        assert not is_of(RunId(wrong), peer)
