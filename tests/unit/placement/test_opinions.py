"""What agents say to one question: the order of an award first, then who may be asked later."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import Busy, Forbidden, MeshError, TooLate, Unreachable
from dstack_mesh.ids import MeshId, PeerId
from dstack_scheduler.asking import bid_of_error
from dstack_scheduler.opinions import Opinion, best_first
from dstack_scheduler.placement import BUCKET_BYTES, ranked
from dstack_scheduler.verdict import Bid, Later, Never, NotNow, Now, Reason, Verdict

WHY = (Reason("gpu-busy", "GPU 0 is held by calm-ibex-1."),)
SILENT = Reason("no-answer", "It did not answer.")

verdicts: st.SearchStrategy[Verdict] = st.one_of(
    st.builds(Now, gpus_left=st.integers(0, 3), running=st.integers(0, 3)),
    st.builds(Later, st.just(WHY), st.one_of(st.none(), st.floats(0, 1e6))),
    st.builds(NotNow, st.just(WHY)),
    st.builds(Never, st.just(WHY)),
)


def opinion(name: str, said: Bid | Reason, local: bool = False) -> Opinion:
    return Opinion(PeerCard(PeerId(name), MeshId("m"), name, (), "0", agent=True), local, said)


@st.composite
def heard(draw: st.DrawFn) -> list[Opinion]:
    names = draw(st.lists(st.integers(0, 99), max_size=10, unique=True))
    local = draw(st.sampled_from([None, *names]))
    missing = st.integers(0, 4).map(lambda buckets: buckets * BUCKET_BYTES)
    said = st.one_of(st.just(SILENT), st.builds(Bid, verdicts, missing))
    return [opinion(f"peer-{name:02d}", draw(said), name == local) for name in names]


@given(heard(), st.randoms(use_true_random=False))
def test_whoever_would_be_awarded_comes_first_whoever_answered_first(
    said: list[Opinion], shuffler: Random
) -> None:
    shuffled = list(said)
    shuffler.shuffle(shuffled)
    ordered = best_first(shuffled)
    assert ordered == best_first(said)
    offers = [one.offer for one in ordered if one.offer is not None]
    assert offers == ranked(offers)
    assert [one.when for one in ordered[: len(offers)]] == ["now"] * len(offers)


def test_after_those_who_can_now_come_those_who_can_soonest() -> None:
    said = [
        opinion("silent", SILENT),
        opinion("never", Bid(Never(WHY))),
        opinion("some-day", Bid(Later(WHY))),
        opinion("in-an-hour", Bid(Later(WHY, 3600.0))),
        opinion("paused", Bid(NotNow(WHY))),
        opinion("soon", Bid(Later(WHY, 60.0))),
        opinion("now", Bid(Now())),
    ]
    names = [one.card.name for one in best_first(said)]
    assert names == ["now", "soon", "in-an-hour", "some-day", "paused", "never", "silent"]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Unreachable("It is away."), None),
        (TooLate("It took too long."), None),
        (Busy("Too many calls."), NotNow),
        (Forbidden("Ask is not for this caller."), Never),
    ],
)
def test_an_error_means_what_it_means_in_an_auction(
    error: MeshError, verdict: type[Verdict] | None
) -> None:
    bid = bid_of_error(error)
    assert (bid and type(bid.verdict)) is verdict
