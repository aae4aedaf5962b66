"""The processes of a job in the order in which they hear of a stop."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.executor.tree import below

TREES = st.lists(st.integers(0, 60), max_size=60).flatmap(
    lambda picks: st.permutations(range(2, len(picks) + 2)).map(lambda pids: (pids, picks))
)
"""Ids in any order, and for each whose child it is: one of those before it, or of process 1."""


@given(TREES)
def test_who_waits_for_a_process_hears_of_it_first(tree: tuple[list[int], list[int]]) -> None:
    """A shell whose child is gone first would end for that reason, and its trap never run."""
    pids, picks = tree
    parents = [
        (pid, [1, *pids][pick % (place + 1)])
        for place, (pid, pick) in enumerate(zip(pids, picks, strict=True))
    ]
    found = below(parents, 1)
    assert sorted(found) == sorted(pids)
    places = {pid: place for place, pid in enumerate([1, *found])}
    assert all(places[parent] < places[pid] for pid, parent in parents)


def test_what_is_not_below_is_left_out() -> None:
    assert below([(2, 1), (3, 2), (5, 4), (4, 9)], 2, 9) == [4, 5, 3]
    assert below([(2, 1)], 3) == []
