"""What a job kept comes to two agents, each deciding for itself from what it sees."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.redundancy import (
    PROMISED,
    Copy,
    Kept,
    Mate,
    Pace,
    Presence,
    Redundancy,
    ranking,
)
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_scheduler.job import JobKey

PACE = Pace(grace=10, turn=20)
GIB = 1 << 30
PEERS = [PeerId(letter * 32) for letter in "abcdefgh"]
HERE = Mate(Presence.HERE, 100 * GIB)


def kept(*holders: PeerId, number: int = 1, size: int = GIB) -> Kept:
    key = JobKey(RunId(f"{number:026}"), 0)
    return Kept(key, (Digest(number.to_bytes(32)),), size, frozenset(holders))


def mates(count: int) -> dict[PeerId, Mate]:
    return dict.fromkeys(PEERS[:count], HERE)


def views(count: int) -> dict[PeerId, Redundancy]:
    return {peer: Redundancy(peer, PACE) for peer in PEERS[:count]}


def decided(
    all_of_them: dict[PeerId, Redundancy], what: Kept, seen: dict[PeerId, Mate], now: float
) -> dict[PeerId, Copy]:
    """Who copies it now."""
    orders = {peer: one.decide([what], seen, now) for peer, one in all_of_them.items()}
    return {peer: order[0] for peer, order in orders.items() if order}


@given(st.integers(2, 8), st.integers(1, 1000))
def test_one_agent_copies_what_ended_and_all_others_wait(count: int, number: int) -> None:
    what = kept(PEERS[0], number=number)
    [(peer, order)] = decided(views(count), what, mates(count), 0).items()
    assert peer == ranking(what, mates(count))[0]
    assert order.sources == (PEERS[0],) and order.doubted == ()


def test_what_is_twice_is_left_alone_and_so_is_what_nobody_gives() -> None:
    assert decided(views(4), kept(PEERS[0], PEERS[1]), mates(4), 0) == {}
    gone = mates(4) | {PEERS[0]: Mate(Presence.SILENT)}
    for now in (0, 100, 1000):
        assert decided(views(4), kept(PEERS[0]), gone, now) == {}


def test_a_lone_agent_has_one_copy() -> None:
    assert decided(views(1), kept(PEERS[0]), mates(1), 0) == {}


@given(st.integers(3, 8))
def test_if_the_first_does_not_act_the_next_one_does_after_a_turn(count: int) -> None:
    everybody, what, seen = views(count), kept(PEERS[0]), mates(count)
    ranked = ranking(what, seen)
    for behind in range(len(ranked)):
        now = behind * PACE.turn
        assert set(decided(everybody, what, seen, now)) == set(ranked[: behind + 1])
        just_before = now + PACE.turn - 0.1
        assert set(decided(everybody, what, seen, just_before)) == set(ranked[: behind + 1])


def test_a_silent_holder_counts_for_a_grace_and_is_doubted_afterwards() -> None:
    everybody, what = views(4), kept(PEERS[0], PEERS[1])
    seen = mates(4) | {PEERS[0]: Mate(Presence.SILENT)}
    assert decided(everybody, what, seen, 0) == {}
    assert all(one.waiting for one in everybody.values())
    assert decided(everybody, what, seen, PACE.grace - 0.1) == {}
    [order] = decided(everybody, what, seen, PACE.grace).values()
    assert order.doubted == (PEERS[0],) and order.sources == (PEERS[1],)


def test_a_holder_that_answered_a_call_counts_for_another_grace() -> None:
    everybody, what = views(3), kept(PEERS[0], PEERS[1])
    seen = mates(3) | {PEERS[0]: Mate(Presence.SILENT)}
    decided(everybody, what, seen, 0)
    [doubter] = decided(everybody, what, seen, PACE.grace)
    everybody[doubter].heard(PEERS[0], PACE.grace)
    assert decided(everybody, what, seen, PACE.grace + 1) == {}
    assert set(decided(everybody, what, seen, 2 * PACE.grace)) == {doubter}


def test_a_holder_that_comes_back_ends_the_waiting() -> None:
    everybody, what = views(4), kept(PEERS[0], PEERS[1])
    decided(everybody, what, mates(4) | {PEERS[0]: Mate(Presence.SILENT)}, 0)
    assert decided(everybody, what, mates(4), 5) == {}
    assert not any(one.waiting for one in everybody.values())
    later = mates(4) | {PEERS[0]: Mate(Presence.SILENT)}
    assert decided(everybody, what, later, 20) == {}


def test_who_leaves_hands_over_first_and_takes_nothing() -> None:
    leaving = mates(3) | {PEERS[0]: Mate(Presence.LEAVING)}
    what = kept(PEERS[0], PEERS[1])
    [(peer, order)] = decided(views(3), what, leaving, 0).items()
    assert peer == PEERS[2] and set(order.sources) == {PEERS[0], PEERS[1]}
    assert decided(views(3), kept(PEERS[1], PEERS[2]), leaving, 0) == {}
    alone = {PEERS[0]: Mate(Presence.LEAVING), PEERS[1]: HERE}
    assert set(decided(views(2), kept(PEERS[0]), alone, 0)) == {PEERS[1]}


def test_who_has_no_room_takes_nothing_and_others_know_it() -> None:
    what = kept(PEERS[0], size=GIB)
    first = ranking(what, mates(4))[0]
    seen = mates(4) | {first: Mate(Presence.HERE, GIB - 1)}
    [peer] = decided(views(4), what, seen, 0)
    assert peer != first and peer != PEERS[0]
    full = {peer: replace(HERE, room_bytes=0) for peer in PEERS[:4]}
    assert decided(views(4), what, full, 1000) == {}


def test_nobody_waits_for_what_it_will_not_do_itself() -> None:
    full = {PEERS[2]: replace(HERE, room_bytes=0)}
    everybody, what, seen = views(3), kept(PEERS[0]), mates(2) | full
    decided(everybody, what, seen, 0)
    assert [one.waiting for one in everybody.values()] == [False, True, False]


def test_where_both_are_lacking_two_agents_act() -> None:
    leaving = mates(5) | {PEERS[0]: Mate(Presence.LEAVING)}
    assert len(decided(views(5), kept(PEERS[0]), leaving, 0)) == PROMISED


def test_the_smallest_comes_first() -> None:
    large, small = kept(PEERS[0], number=1), kept(PEERS[0], number=2, size=5)
    [one] = [Redundancy(PEERS[1], PACE)]
    orders = one.decide([large, small], mates(2), 0)
    assert [order.kept for order in orders] == [small, large]


@given(st.integers(3, 8), st.integers(0, 1 << 30))
def test_whatever_dies_one_after_the_other_two_have_it_at_last(count: int, seed: int) -> None:
    """Each acts on its own view; copies take a while; whoever is dead stays dead."""
    lot, everybody, seen = Random(seed), views(count), mates(count)
    what, now, made = kept(PEERS[0]), 0.0, 0
    for _ in range(count - 1):
        for _ in range(60):
            now += 1
            living = {peer: one for peer, one in everybody.items() if seen[peer] == HERE}
            for peer in decided(living, what, seen, now):
                if lot.random() < 0.5:  # it takes a while
                    what = replace(what, holders=what.holders | {peer})
                    made += 1
        holders = [peer for peer in what.holders if seen[peer] == HERE]
        living_count = sum(mate == HERE for mate in seen.values())
        assert len(holders) >= min(PROMISED, living_count)
        seen[lot.choice(sorted(peer for peer in seen if seen[peer] == HERE))] = Mate(
            Presence.SILENT
        )
    assert made <= 3 * count
