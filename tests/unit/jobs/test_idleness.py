"""When nobody uses a job any more."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.jobs.idleness import Idleness


def test_a_job_is_idle_once_nobody_was_connected_for_its_limit() -> None:
    idle = Idleness(60.0, since=100.0)
    assert (idle.left(100.0), idle.left(150.0), idle.left(160.0)) == (60.0, 10.0, 0.0)

    idle.opened()
    idle.opened()
    idle.closed(200.0)
    assert idle.left(10_000.0) is None

    idle.closed(300.0)
    assert (idle.left(300.0), idle.left(360.0)) == (60.0, 0.0)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 100)), max_size=5))
def test_it_is_never_idle_while_somebody_is_connected(spans: list[tuple[int, int]]) -> None:
    idle = Idleness(50.0, since=0.0)
    ends = [(start + length, False) for start, length in spans]
    for at, begins in sorted([*((start, True) for start, _ in spans), *ends]):
        connected = any(start < at < start + length for start, length in spans)
        assert not connected or idle.left(float(at)) is None
        idle.opened() if begins else idle.closed(float(at))

    last = max((start + length for start, length in spans), default=0)
    assert idle.left(float(last)) == 50.0
