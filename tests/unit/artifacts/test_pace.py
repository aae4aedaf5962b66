"""When artifacts are looked at: soon after a change, and never too often."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.artifacts.pace import (
    CPU_SHARE,
    DISK_SHARE,
    PACE,
    SPENT_BYTES,
    Look,
    affordable,
)

times = st.floats(0, 1e6)
costs = st.floats(0, 100)
looks = st.builds(Look, times, costs, costs, st.booleans())


def test_a_change_after_a_quiet_time_is_looked_at_at_once() -> None:
    assert PACE.next_look(Look(100.0, 0.1, 0.01), 110.0) == 110.0 + PACE.gather


def test_changes_that_never_stop_are_looked_at_in_turns() -> None:
    assert PACE.next_look(Look(100.0, 0.1, 0.01), 100.0) == 100.0 + PACE.apart


def test_without_a_change_it_is_looked_at_now_and_then() -> None:
    assert PACE.next_look(Look(100.0), None) == 100.0 + PACE.unheard
    assert PACE.next_look(Look(100.0, complete=False), None) == 100.0 + PACE.apart


@given(looks, st.none() | times)
def test_looks_take_a_bounded_share_of_processor_and_disk(
    last: Look, changed: float | None
) -> None:
    rest = PACE.next_look(last, changed) - last.ended
    assert rest >= PACE.apart - 1e-6
    assert last.cpu_seconds <= rest / CPU_SHARE + 1e-6
    assert last.seconds <= rest / DISK_SHARE + 1e-6


@given(looks, times)
def test_a_change_never_puts_a_look_off(last: Look, changed: float) -> None:
    assert PACE.next_look(last, changed) <= PACE.next_look(last, None)


def test_replaced_versions_take_a_bounded_part_of_what_is_free() -> None:
    assert affordable(SPENT_BYTES, 1)
    assert not affordable(0, 0)
    assert not affordable(SPENT_BYTES + 1, SPENT_BYTES)
    assert affordable(10 * SPENT_BYTES, 100 * SPENT_BYTES)
    assert not affordable(11 * SPENT_BYTES, 100 * SPENT_BYTES)
