"""Keeping watch over agents: stories of one peer, and what holds whatever the others say."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.known import Change
from dstack_mesh.membership.pace import suspicion_seconds
from dstack_mesh.membership.rumour import HIGHEST_INCARNATION, Condition, Message, Rumour
from dstack_mesh.membership.signs import (
    Answered,
    Call,
    CallFor,
    Compare,
    Effect,
    Event,
    Helped,
    Leave,
    Met,
    Portrayed,
    Purpose,
    Sighted,
    Silent,
    Tick,
    Told,
)
from dstack_mesh.membership.swim import Swim
from support.swims import (
    ANA,
    BOB,
    CAT,
    DAN,
    NOWHERE,
    OWN,
    PACE,
    calls,
    live,
    said,
    standing,
    swim_with,
    word,
)


def test_who_answers_stays_alive_and_is_probed_every_second() -> None:
    swim = swim_with(ANA, BOB)
    done = live(swim, 10.0, set())
    assert len(calls(done, Purpose.PROBE)) in (10, 11)
    assert {one.peer_id for one in calls(done, Purpose.PROBE)} == {ANA, BOB}
    assert [one for one in done if isinstance(one, Change)] == []


def test_what_others_said_of_a_peer_ends_when_it_speaks_itself() -> None:
    """Even if they used its own number, or the highest there is."""
    swim = swim_with(ANA, BOB)
    for incarnation in (1, HIGHEST_INCARNATION):
        false = Rumour(ANA, incarnation, Condition.ALIVE, AgentState.PAUSED, "?", (NOWHERE,))
        swim.handle(said(BOB, false), 1.0)
        swim.handle(said(ANA, incarnation=incarnation), 2.0)
        member = swim.member(ANA)
        assert member is not None
        assert (member.standing, member.name) == ("alive", "a")
        assert NOWHERE not in member.addresses


def test_silence_is_asked_about_and_suspected_and_called_before_it_is_gone() -> None:
    swim = swim_with(ANA, BOB, CAT)
    done = live(swim, 10.0, {ANA})
    about = [one for one in done if getattr(one, "peer_id", None) == ANA]
    order = [
        one.purpose.name
        if isinstance(one, Call)
        else one.now or ""
        if isinstance(one, Change)
        else "help"
        for one in about
    ]
    assert order[:2] == ["PROBE", "AGAIN"]
    assert order.index("help") < order.index("suspect") < order.index("LAST") < order.index("gone")
    assert order[: order.index("gone")].count("LAST") == PACE.calls
    assert standing(swim, ANA) == "gone"
    assert (standing(swim, BOB), standing(swim, CAT)) == ("alive", "alive")


def test_whom_a_helper_reaches_is_not_suspected() -> None:
    swim = swim_with(ANA, BOB, CAT)
    now = swim.next_due()
    (probe,) = calls(swim.handle(Tick(), now), Purpose.PROBE)
    effects = swim.handle(Silent(probe.number), now + 0.5)
    (again,) = calls(effects, Purpose.AGAIN)
    helpers = [one for one in effects if isinstance(one, CallFor)]
    assert helpers
    assert all(probe.peer_id not in (one.helper, OWN) for one in helpers)
    swim.handle(Silent(again.number), now + 0.9)
    swim.handle(Helped(helpers[0].number, True), now + 0.9)
    assert standing(swim, probe.peer_id) == "alive"
    assert swim.health.points == 0


def test_who_hears_nothing_of_its_helpers_either_takes_more_time() -> None:
    swim = swim_with(ANA, BOB, CAT)
    now = swim.next_due()
    (probe,) = calls(swim.handle(Tick(), now), Purpose.PROBE)
    for effect in swim.handle(Silent(probe.number), now + 0.5):
        if isinstance(effect, Call | CallFor):
            swim.handle(Silent(effect.number), now + 1.0)
    assert standing(swim, probe.peer_id) == "suspect"
    assert swim.health.points == 1


def test_a_suspicion_ends_with_a_newer_word_and_not_with_an_old_one() -> None:
    swim = swim_with(ANA, BOB)
    swim.handle(said(BOB, word(ANA, 1, Condition.SUSPECT, accusers=(BOB,))), 1.0)
    assert standing(swim, ANA) == "suspect"
    swim.handle(said(BOB, word(ANA, 1)), 1.1)
    assert standing(swim, ANA) == "suspect"
    swim.handle(said(BOB, word(ANA, 2)), 1.2)
    assert standing(swim, ANA) == "alive"


def test_a_suspected_peer_is_told_so_by_whoever_talks_to_it() -> None:
    swim = swim_with(ANA, BOB)
    swim.handle(said(BOB, word(ANA, 1, Condition.SUSPECT, accusers=(BOB,))), 1.0)
    first = swim.message(ANA).rumours[0]
    assert (first.peer_id, first.condition) == (ANA, Condition.SUSPECT)
    assert all(one.peer_id != BOB for one in swim.message(BOB).rumours)


def test_we_object_to_a_suspicion_of_us_with_a_newer_word_and_tell_it_at_once() -> None:
    swim = swim_with(ANA, BOB)
    effects = swim.handle(said(BOB, word(OWN, 1, Condition.DEAD, accusers=(BOB,))), 1.0)
    assert (swim.word.incarnation, swim.word.condition) == (2, Condition.ALIVE)
    assert {one.message.word for one in calls(effects, Purpose.NEWS)} == {swim.word}
    assert swim.health.points == 1
    swim.handle(said(ANA, word(OWN, 1, Condition.SUSPECT, accusers=(BOB,))), 1.1)
    assert swim.word.incarnation == 2


def test_nobody_is_gone_because_others_say_so_while_it_answers() -> None:
    swim = swim_with(ANA, BOB, CAT)
    for condition in (Condition.SUSPECT, Condition.DEAD, Condition.LEFT):
        rumour = word(ANA, 1, condition, accusers=(BOB, CAT, DAN))
        done = live(swim, 20.0, set(), 1.0, swim.handle(said(BOB, rumour), 1.0))
        assert "gone" not in {one.now for one in done if isinstance(one, Change)}
        assert standing(swim, ANA) == "alive"
        swim = swim_with(ANA, BOB, CAT)


def test_who_says_that_it_goes_has_left_and_is_not_called_again() -> None:
    swim = swim_with(ANA, BOB)
    swim.handle(Told(Message(word(ANA, 2, Condition.LEFT))), 1.0)
    assert standing(swim, ANA) == "left"
    done = live(swim, 60.0, {ANA}, 1.0)
    assert [one for one in calls(done) if one.peer_id == ANA] == []


def test_who_is_said_to_have_left_is_called_at_once() -> None:
    swim = swim_with(ANA, BOB)
    effects = swim.handle(said(BOB, word(ANA, 2, Condition.LEFT)), 1.0)
    assert [one.peer_id for one in calls(effects, Purpose.LAST)] == [ANA]
    assert standing(swim, ANA) == "alive"
    live(swim, 1.1 + PACE.calls * PACE.patience, {ANA}, 1.0, effects)
    assert standing(swim, ANA) == "left"


@pytest.mark.parametrize(("periods", "ends"), [(2.1, "alive"), (7.1, "left")])
def test_who_is_slow_waits_longer_for_its_last_calls_and_makes_them_no_later(
    periods: float, ends: str
) -> None:
    swim = swim_with(ANA, BOB)
    swim.health.worsen(4)
    effects = swim.handle(said(BOB, word(ANA, 2, Condition.LEFT)), 1.0)
    done = live(swim, 1.0 + periods * PACE.patience, {ANA}, 1.0, effects)
    last = calls(done, Purpose.LAST)
    assert len(last) == PACE.calls
    assert min(one.within for one in last) >= 4 * PACE.patience
    assert standing(swim, ANA) == ends


@pytest.mark.parametrize("others", [Condition.SUSPECT, Condition.DEAD])
def test_who_is_slow_suspects_no_longer_than_others_once_those_gave_up(others: Condition) -> None:
    swim = swim_with(ANA, BOB)
    swim.health.worsen(4)
    suspected = word(ANA, 1, Condition.SUSPECT, accusers=(BOB,))
    swim.handle(said(BOB, suspected), 1.0)
    effects = swim.handle(said(BOB, word(ANA, 1, others, accusers=(BOB,))), 1.2)
    done = live(swim, 2.5, {ANA}, 1.2, effects)
    assert bool(calls(done, Purpose.LAST)) is (others is Condition.DEAD)
    assert standing(swim, ANA) == "suspect"


def test_we_leave_by_telling_some_and_then_do_nothing_more() -> None:
    swim = swim_with(ANA, BOB, CAT, DAN)
    effects = swim.handle(Leave(), 1.0)
    told = calls(effects, Purpose.NEWS)
    assert {one.peer_id for one in told} == {ANA, BOB, CAT, DAN}
    assert {one.message.word.condition for one in told} == {Condition.LEFT}
    assert swim.handle(said(ANA, word(OWN, 9, Condition.SUSPECT)), 1.1) == []
    assert swim.next_due() == float("inf")


def test_who_was_gone_is_alive_with_a_newer_word_and_is_asked_what_it_knows() -> None:
    swim = swim_with(ANA, BOB)
    live(swim, 12.0, {ANA})
    assert standing(swim, ANA) == "gone"
    effects = swim.handle(said(ANA, incarnation=2), 13.0)
    assert standing(swim, ANA) == "alive"
    assert [one.peer_id for one in effects if isinstance(one, Compare)] == [ANA]


def test_who_is_gone_is_called_now_and_then_and_back_when_it_answers() -> None:
    swim = swim_with(ANA, BOB)
    live(swim, 12.0, {ANA})
    done = live(swim, 40.0, {ANA}, 12.0)
    assert calls(done, Purpose.RETRY)
    live(swim, 60.0, set(), 40.0)
    assert standing(swim, ANA) == "alive"


def test_the_gone_are_forgotten_and_old_rumours_do_not_bring_them_back() -> None:
    swim = swim_with(ANA, BOB)
    done = live(swim, 700.0, {ANA})
    assert standing(swim, ANA) == "unknown"
    assert [one.now for one in done if isinstance(one, Change)][-1] is None
    for condition in Condition:
        swim.handle(said(BOB, word(ANA, 1, condition)), 700.0)
    assert standing(swim, ANA) == "unknown"
    swim.handle(said(BOB, word(ANA, 2)), 701.0)
    assert standing(swim, ANA) == "alive"


def test_after_a_sleep_of_ours_nobody_is_suspected_for_it() -> None:
    swim = swim_with(ANA, BOB, CAT)
    now = swim.next_due()
    (probe,) = calls(swim.handle(Tick(), now), Purpose.PROBE)
    # Its time was over long ago, as we hear now.
    effects = swim.handle(Silent(probe.number), now + 3600)
    assert swim.health.points >= 3
    done = live(swim, now + 3700, set(), now + 3600, effects)
    assert [one for one in done if _is_change(one)] == []
    assert swim.health.points == 0


def test_an_old_suspicion_begins_again_after_a_sleep_of_ours() -> None:
    swim = swim_with(ANA, BOB, CAT)
    swim.handle(said(BOB, word(ANA, 1, Condition.SUSPECT, accusers=(BOB,))), 1.0)
    effects = swim.handle(Tick(), 3600.0)
    assert calls(effects, Purpose.LAST) == []
    assert standing(swim, ANA) == "suspect"


def _is_change(effect: Effect) -> bool:
    return isinstance(effect, Change)


def test_draining_is_said_aloud() -> None:
    swim = swim_with(ANA, BOB)
    effects = swim.handle(Portrayed("o", (), AgentState.DRAINING), 1.0)
    assert {one.message.word.state for one in calls(effects)} == {AgentState.DRAINING}
    other = Swim(word(ANA), Random(1), 0.0)
    other.handle(said(OWN), 0.0)
    changes = other.handle(Told(Message(swim.word)), 1.0)
    assert [one.now for one in changes if isinstance(one, Change)] == ["draining"]


def test_a_suspicion_takes_longer_in_a_larger_mesh_and_less_with_more_accusers() -> None:
    by_size = [suspicion_seconds(size, 0, PACE) for size in (3, 10, 100, 1000)]
    by_accusers = [suspicion_seconds(100, count, PACE) for count in range(6)]
    assert by_size == sorted(by_size)
    assert by_accusers == sorted(by_accusers, reverse=True)
    assert by_accusers[3] == by_accusers[5] == 0.5 * (1 + 2)
    assert suspicion_seconds(1, 0, PACE) == suspicion_seconds(1, 9, PACE) > 0


peers = st.sampled_from([OWN, ANA, BOB, CAT, DAN])
others = st.sampled_from([ANA, BOB, CAT, DAN])
rumours = st.builds(
    word,
    peers,
    st.integers(0, 6),
    st.sampled_from(Condition),
    st.sampled_from(AgentState),
    st.lists(peers, max_size=4).map(tuple),
)
words = st.builds(
    word, others, st.integers(0, 6), st.sampled_from([Condition.ALIVE, Condition.LEFT])
)
messages = st.builds(Message, words, st.lists(rumours, max_size=4).map(tuple))
numbers = st.integers(1, 40)
events: st.SearchStrategy[Event] = st.one_of(
    st.just(Tick()),
    st.builds(Told, messages),
    st.builds(Answered, numbers, messages),
    st.builds(Silent, numbers),
    st.builds(Helped, numbers, st.booleans()),
    st.builds(Met, st.builds(word, others, st.just(0))),
    st.builds(Sighted, others, st.just(Address("10.0.0.9:1"))),
    st.builds(Portrayed, st.just("o"), st.just(()), st.sampled_from(AgentState)),
)
histories = st.lists(st.tuples(events, st.floats(0, 20)), max_size=60)


@given(histories)
@settings(max_examples=300, deadline=None)
def test_whatever_is_said_in_whatever_order_who_is_gone_was_called_in_vain(
    history: list[tuple[Event, float]],
) -> None:
    swim, now = swim_with(ANA, BOB), 0.0
    last_calls: dict[PeerId, int] = {}
    for event, pause in history:
        now += pause
        before = {one.peer_id: one.standing for one in swim.members}
        own = swim.word.incarnation
        effects = swim.handle(event, now)
        for change in effects:
            if isinstance(change, Change) and change.now == "gone":
                assert last_calls.get(change.peer_id, 0) >= PACE.calls
        for call in calls(effects, Purpose.LAST):
            last_calls[call.peer_id] = last_calls.get(call.peer_id, 0) + 1
        for member in swim.members:
            if member.standing in ("alive", "draining", "paused"):
                last_calls[member.peer_id] = 0
        assert swim.word.incarnation >= own
        assert swim.member(OWN) is None
        assert swim.next_due() > now
        assert all(len(one.reachable) <= 9 for one in swim.members)
        assert before.keys() - {one.peer_id for one in swim.members} == set() or now > 600
        for effect in effects:
            if isinstance(effect, Call):
                assert len(effect.message.rumours) <= PACE.most_rumours
