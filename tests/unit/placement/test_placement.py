"""The order of offers, and the clause that says why the best is the best."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.card import PeerCard
from dstack_mesh.ids import MeshId, PeerId
from dstack_scheduler.placement import BUCKET_BYTES, Offer, Wish, ranked, reason, size
from dstack_scheduler.verdict import Now

GB = 10**9


def offer(
    name: str, local: bool = False, missing: int = 0, left: int = 0, running: int = 0
) -> Offer:
    card = PeerCard(PeerId(name), MeshId("m"), name, (), "0", agent=True)
    return Offer(card, local, Now((), left, running), missing)


@st.composite
def offers(draw: st.DrawFn) -> list[Offer]:
    names = draw(st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True))
    local = draw(st.sampled_from([None, *names]))
    return [
        offer(
            f"peer-{name:02d}",
            name == local,
            draw(st.integers(0, 4)) * BUCKET_BYTES,
            draw(st.integers(0, 3)),
            draw(st.integers(0, 3)),
        )
        for name in names
    ]


@given(offers(), st.randoms(use_true_random=False))
def test_order_of_bids_never_changes_the_winner(bids: list[Offer], shuffler: Random) -> None:
    shuffled = list(bids)
    shuffler.shuffle(shuffled)

    assert ranked(shuffled) == ranked(bids)


@given(offers())
def test_this_machine_always_wins_if_it_can_run_it(bids: list[Offer]) -> None:
    best = ranked(bids)[0]

    assert best.local or not any(bid.local for bid in bids)


@given(offers(), st.integers(0, 8), st.booleans(), st.integers(0, 3))
def test_there_is_always_a_reason(bids: list[Offer], gpus: int, asked: bool, others: int) -> None:
    best, *rest = ranked(bids)

    assert reason(best, rest, Wish(gpus, 10 * GB, asked, others))


def test_fewer_bytes_to_fetch_beat_a_tighter_fit() -> None:
    near, tight = offer("near", left=3), offer("tight", missing=2 * GB)

    assert ranked([tight, near])[0] is near
    assert reason(near, [tight], Wish(input_bytes=19 * GB // 10)) == (
        "already has 1.9 GB of the inputs"
    )


def test_a_few_megabytes_do_not_outweigh_a_tighter_fit() -> None:
    near, tight = offer("near", left=3), offer("tight", missing=10**6)

    assert ranked([tight, near])[0] is tight
    assert reason(tight, [near], Wish()) == "its free GPUs fit best"


def test_the_only_agent_with_a_gpu_is_called_so() -> None:
    assert reason(offer("a"), [], Wish(gpus=1, others=2)) == "only agent with a free GPU"
    assert reason(offer("a"), [], Wish(gpus=2, others=2)) == "only agent with 2 free GPUs"
    assert reason(offer("a"), [], Wish(others=2)) == "only agent that can run it now"
    assert reason(offer("a"), [], Wish()) == "the only agent"


def test_an_agent_that_was_named_is_taken_because_it_was_named() -> None:
    assert reason(offer("a", local=True), [], Wish(asked_for=True)) == "you asked for it"


def test_sizes_read_like_sizes() -> None:
    assert [size(n) for n in (0, 999, 1000, 1_900_000_000, 250 * 10**6)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.9 GB",
        "250 MB",
    ]
