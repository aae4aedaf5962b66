"""What agents remember of each other's audit logs."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.audit.chain import Head
from dstack_agent.audit.entry import Entry, What
from dstack_agent.audit.heads import MOST, Known, decoded, encoded, witnessed
from dstack_mesh.ids import PeerId

ANA, BEN = (PeerId(letter * 32) for letter in "ab")
A, B = "a" * 64, "b" * 64


def seen(known: dict[PeerId, Known], head: Head, day: int = 0) -> list[Entry]:
    """Ana tells of her log; `known` is changed to what is known then."""
    after, entries = witnessed(known, [(ANA, "ana", head)], day)
    known.clear()
    known.update(after)
    return entries


def test_an_end_is_written_down_once_a_day_if_it_is_another_one() -> None:
    known: dict[PeerId, Known] = {}
    [line] = seen(known, Head(5, A))
    assert (line.what, line.who, line.why) == (What.WITNESSED, ANA, f"line 5 is {A}")
    assert seen(known, Head(5, A)) == []
    assert seen(known, Head(7, B)) == [], "later that day"
    [line] = seen(known, Head(7, B), day=1)
    assert line.why == f"line 7 is {B}"
    assert seen(known, Head(7, B), day=2) == [], "nothing happened there"


def test_a_log_that_goes_back_or_has_another_end_is_told_at_once() -> None:
    for told in (Head(4, A), Head(5, B)):
        known: dict[PeerId, Known] = {}
        seen(known, Head(5, A))
        [line] = seen(known, told)
        assert (line.what, line.about) == (What.REWRITTEN, "its audit log")
        assert line.why == f"line 5 was {A}, its end is now line {told.seq}, {told.digest}"
        assert seen(known, Head(told.seq + 1, A)) == [], "and grows from there"


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([A, B])), max_size=60))
def test_whatever_somebody_tells_all_day_it_makes_two_lines(told: list[tuple[int, str]]) -> None:
    known: dict[PeerId, Known] = {}
    lines = [line for seq, digest in told for line in seen(known, Head(seq, digest))]
    assert len([line for line in lines if line.what is What.WITNESSED]) <= 1
    assert len([line for line in lines if line.what is What.REWRITTEN]) <= 1
    assert decoded(encoded(known)) == known


def test_those_of_whom_nothing_was_heard_the_longest_are_forgotten() -> None:
    known, _ = witnessed({}, [(BEN, "ben", Head(1, A))], 0)
    many = [(PeerId(f"{number:032d}"), "", Head(1, A)) for number in range(MOST)]
    known, _ = witnessed(known, many, 1)
    assert len(known) == MOST
    assert BEN not in known
