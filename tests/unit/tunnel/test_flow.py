"""Credits of a connection: whoever is slow holds a window, and whoever cheats is caught."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.faults import Invalid
from dstack_mesh.tunnel.flow import WINDOW_BYTES, Flow


@given(st.lists(st.integers(1, WINDOW_BYTES), max_size=60), st.randoms(use_true_random=False))
def test_whatever_is_sent_fits_and_all_of_it_arrives(pieces: list[int], chance: Random) -> None:
    sender, receiver = Flow(), Flow()
    waiting, held, written = list(pieces), 0, 0
    while waiting or held:
        if waiting and sender.may_send and chance.random() < 0.6:
            count = min(waiting[0], sender.may_send)
            sender.send(count)
            receiver.receive(count)
            held += count
            waiting[0] -= count
            if not waiting[0]:
                waiting.pop(0)
        elif held:
            count = min(held, 1 + int(chance.random() * WINDOW_BYTES))
            held -= count
            written += count
            if credit := receiver.write(count):
                sender.granted(credit)
        assert held <= WINDOW_BYTES
    assert written == sum(pieces)


def test_bytes_that_were_not_granted_are_refused() -> None:
    flow = Flow()
    flow.receive(WINDOW_BYTES)
    with pytest.raises(Invalid):
        flow.receive(1)


def test_nothing_comes_after_an_end() -> None:
    flow = Flow(heard_end=True)
    with pytest.raises(Invalid):
        flow.receive(1)


def test_credit_beyond_a_window_is_refused() -> None:
    flow = Flow()
    flow.send(10)
    flow.granted(10)
    with pytest.raises(Invalid):
        flow.granted(1)
