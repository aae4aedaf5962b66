"""How often a peer may call: never more than its bucket lets it, and never less."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.allowances import Allowances, Rate
from dstack_mesh.faults import Busy
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.caller import Member, Owner, Stranger
from dstack_mesh.wire.rates import RATES, Kind, Pacing, kind_of
from dstack_mesh.wire.rights import RIGHTS

ANA, BOB = PeerId("a" * 32), PeerId("b" * 32)
RATE = Rate(per_second=50, burst=20)
GAPS = st.lists(st.integers(0, 200).map(lambda ms: ms / 1000), min_size=1, max_size=300)


class Forgetful(Allowances[str]):
    """Refuses nobody."""

    def take(self, peer: PeerId, kind: str, now: float) -> float:
        return 0.0


def allowed(allowances: Allowances[str], moments: Sequence[float]) -> list[float]:
    """The moments at which calls were let through."""
    return [now for now in moments if not allowances.take(ANA, "ask", now)]


def moments_of(gaps: Sequence[float]) -> list[float]:
    """When calls come, given the time before each."""
    now, moments = 1000.0, list[float]()
    for gap in gaps:
        now += gap
        moments.append(now)
    return moments


def check_bounded(passed: Sequence[float]) -> None:
    """In no span of time come more calls than the burst and what the bucket got meanwhile."""
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span = passed[last] - passed[first]
            assert last - first + 1 <= RATE.burst + RATE.per_second * span + 1e-6


@given(GAPS)
def test_no_span_of_time_has_more_calls_than_the_burst_and_what_was_filled(
    gaps: list[float],
) -> None:
    check_bounded(allowed(Allowances({"ask": RATE}), moments_of(gaps)))


def test_who_refuses_nobody_would_be_found() -> None:
    with pytest.raises(AssertionError):
        check_bounded(allowed(Forgetful({"ask": RATE}), moments_of([0.001] * 100)))


@given(GAPS)
def test_it_says_what_a_bucket_says_whose_tokens_are_counted(gaps: list[float]) -> None:
    allowances = Allowances({"ask": RATE})
    tokens, before = float(RATE.burst), 1000.0
    for now in moments_of(gaps):
        tokens = min(RATE.burst, tokens + (now - before) * RATE.per_second)
        before = now
        wait = allowances.take(ANA, "ask", now)
        if tokens >= 1 - 1e-6:
            assert wait == 0.0
            tokens -= 1
        else:
            assert wait == pytest.approx((1 - tokens) / RATE.per_second, abs=1e-6)


@given(GAPS)
def test_after_the_time_that_a_refusal_names_a_call_is_let_through_and_none_before(
    gaps: list[float],
) -> None:
    allowances = Allowances({"ask": RATE})
    waits = [(now, allowances.take(ANA, "ask", now)) for now in moments_of(gaps)]
    now, wait = waits[-1]
    if wait:
        assert allowances.take(ANA, "ask", now + wait * 0.9) > 0.0
        assert allowances.take(ANA, "ask", now + wait) == 0.0


@given(GAPS, GAPS)
def test_peers_and_kinds_do_not_spend_each_others_tokens(
    gaps: list[float], others: list[float]
) -> None:
    alone = allowed(Allowances({"ask": RATE, "stop": RATE}), moments_of(gaps))
    shared = Allowances({"ask": RATE, "stop": RATE})
    noise = [(now, peer) for now in moments_of(others) for peer in (ANA, BOB)]
    passed = list[float]()
    for now, peer in sorted([*noise, *((now, None) for now in moments_of(gaps))], key=_moment):
        if peer is not None:
            shared.take(peer, "stop" if peer is ANA else "ask", now)
        elif not shared.take(ANA, "ask", now):
            passed.append(now)
    assert passed == alone


def _moment(call: tuple[float, PeerId | None]) -> float:
    return call[0]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 50)), max_size=500))
def test_the_table_is_bounded_and_forgetting_the_full_loses_nothing(
    calls: list[tuple[int, int]],
) -> None:
    bounded, endless = Allowances({"ask": RATE}, most=16), Allowances({"ask": RATE}, most=10**6)
    now, called, crowded = 1000.0, dict[int, float](), False
    for ms, number in calls:
        now += ms / 1000
        called[number] = now
        full_after = RATE.burst / RATE.per_second
        crowded = crowded or sum(now - at < full_after for at in called.values()) > 8
        peer = PeerId(f"{number:032d}")
        waits = bounded.take(peer, "ask", now), endless.take(peer, "ask", now)
        assert len(bounded) <= 16
        assert waits[0] == waits[1] or crowded


def test_who_called_last_is_forgotten_last() -> None:
    allowances = Allowances({"ask": Rate(per_second=1, burst=1)}, most=4)
    for number in range(5):
        assert allowances.take(PeerId(f"{number:032d}"), "ask", 1000.0) == 0.0
    assert allowances.take(PeerId(f"{4:032d}"), "ask", 1000.0) == 1.0
    assert allowances.take(PeerId(f"{0:032d}"), "ask", 1000.0) == 0.0


def test_every_kind_has_a_rate_and_methods_of_every_kind_exist() -> None:
    assert set(RATES) == set(Kind) == {kind_of(method) for method in RIGHTS}
    assert kind_of("/somebody.Elses/Method") is Kind.CONTROL


def test_who_is_there_and_who_is_a_member_is_heard_whatever_else_a_peer_calls() -> None:
    vital = ("Health/Check", "MembershipService/Probe", "RosterService/Exchange")
    kinds = {method.rpartition(".")[2]: kind_of(method) for method in RIGHTS}
    assert {kinds[method] for method in vital} == {Kind.VITAL}
    assert kinds["RunService/Stop"] is not kinds["AuctionService/Ask"]


def test_a_member_that_calls_too_often_is_told_when_to_call_again() -> None:
    pacing = Pacing(elapsed=lambda: 1000.0)
    for _ in range(RATES[Kind.CONTROL].burst):
        pacing.check(Member(ANA, Role.RUNNER), Kind.CONTROL)
    with pytest.raises(Busy) as refused:
        pacing.check(Member(ANA, Role.RUNNER), Kind.CONTROL)
    assert (refused.value.code, refused.value.retry_seconds) == ("too-often", pytest.approx(0.02))
    pacing.check(Member(ANA, Role.RUNNER), Kind.VITAL)
    pacing.check(Member(BOB, Role.RUNNER), Kind.CONTROL)


def test_the_owner_of_the_machine_is_not_counted() -> None:
    pacing = Pacing({kind: Rate(per_second=1, burst=1) for kind in Kind}, lambda: 1000.0)
    for _ in range(1000):
        pacing.check(Owner(), Kind.CONTROL)
        pacing.check(Stranger(), Kind.CONTROL)
