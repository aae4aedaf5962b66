"""How rumours travel: comparisons, repetitions, and bounds of both."""

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.comparing import Question, comparing, fingerprint, reply_to
from dstack_mesh.membership.gossip import MOST_NEWS, Gossip
from dstack_mesh.membership.pace import retry_seconds, transmissions
from dstack_mesh.membership.rumour import Message
from dstack_mesh.membership.signs import Compare, Met, Portrayed, Purpose, Told
from dstack_mesh.membership.swim import Swim
from support.swims import ANA, BOB, CAT, OWN, PACE, calls, live, said, swim_with, word


def test_the_digest_of_a_roster_travels_in_its_own_words_and_is_no_news() -> None:
    swim = swim_with(ANA)
    swim.handle(Portrayed("o", swim.word.addresses, AgentState.ALIVE, "new"), 1.0)
    assert (swim.word.roster, swim.word.incarnation) == ("new", 1)
    other = Swim(word(ANA), Random(1), 0.0)
    for said_now in (word(OWN), swim.word):
        other.handle(Told(Message(said_now)), 1.0)
    member = other.member(OWN)
    assert member is not None
    assert (member.roster, member.rumour().roster) == ("new", "")


def test_a_newcomer_is_compared_with_at_once_and_many_with_one_a_second() -> None:
    swim = swim_with()
    compared = [
        one
        for peer_id in (ANA, BOB, CAT)
        for one in swim.handle(Met(word(peer_id, 0)), 1.0)
        if isinstance(one, Compare)
    ]
    assert [one.peer_id for one in compared] == [ANA]


def test_where_a_person_found_it_is_not_forgotten_and_not_told_to_others() -> None:
    swim, name = swim_with(), Address("ws-1.example:7420")
    swim.handle(Met(word(ANA, 0), name), 1.0)
    swim.handle(said(ANA, incarnation=5), 1.1)
    (probe,) = calls(live(swim, 2.2, set(), 1.1), Purpose.PROBE)[:1]
    assert name in probe.addresses
    assert all(name not in rumour.addresses for rumour in swim.message(BOB).rumours)


def test_rumours_are_repeated_with_the_logarithm_of_the_mesh() -> None:
    assert [transmissions(size, PACE) for size in (1, 9, 99, 999)] == [3, 7, 14, 21]


def test_a_lone_dead_peer_costs_nobody_much_and_half_a_mesh_is_called_often() -> None:
    assert retry_seconds(1000, 1, PACE) > 600
    assert retry_seconds(500, 500, PACE) == PACE.retry


def test_rumours_that_were_sent_least_go_first_and_their_number_is_bounded() -> None:
    gossip = Gossip()
    for number in range(2 * MOST_NEWS):
        gossip.spread(replace(word(ANA), peer_id=PeerId(f"{number:032d}")))
    first, second = gossip.take(64, 9), gossip.take(64, 9)
    assert len(first) == 64
    assert not set(first) & set(second)
    assert len(gossip.take(2 * MOST_NEWS, 9)) == MOST_NEWS
    assert not {one.peer_id for one in first[:3]} & {
        one.peer_id for one in gossip.take(64, 9, untold=[one.peer_id for one in first[:3]])
    }


def compare(asking: Swim, answering: Swim) -> int:
    """Carries a comparison out; how many steps it took."""
    steps = comparing(asking)
    question, count = next(steps), 1
    while True:
        answering.handle(Told(question.message), 1.0)
        reply = reply_to(answering, question)
        asking.handle(Told(reply.message), 1.0)
        try:
            question = steps.send(reply)
        except StopIteration:
            return count
        count += 1


ids = st.integers(0, 400).map(lambda number: PeerId(f"{number:032d}"))
knowledge = st.dictionaries(ids, st.integers(1, 5), max_size=200)


@given(knowledge, knowledge)
@settings(max_examples=60, deadline=None)
def test_after_a_comparison_both_know_the_newest_of_each(
    ours: dict[PeerId, int], theirs: dict[PeerId, int]
) -> None:
    asking, answering = Swim(word(OWN), Random(1), 0.0), Swim(word(ANA), Random(2), 0.0)
    for swim, known in ((asking, ours), (answering, theirs)):
        for peer_id, incarnation in known.items():
            swim.handle(Told(Message(word(peer_id, incarnation))), 0.0)
    steps = compare(asking, answering)
    for _ in range(4):  # what a step has no room for, the next comparison brings
        steps = compare(asking, answering)
    assert fingerprint(asking) == fingerprint(answering)
    assert steps == 1
    for peer_id in {*ours, *theirs}:
        newest = max(ours.get(peer_id, 0), theirs.get(peer_id, 0))
        for swim in (asking, answering):
            member = swim.member(peer_id)
            assert member is not None
            assert member.incarnation == newest


def test_a_page_is_bounded() -> None:
    swim = swim_with(*(PeerId(f"{number:032d}") for number in range(300)))
    reply = reply_to(swim, Question(Message(word(ANA)), b""))
    assert len(reply.message.rumours) == PACE.most_page
    assert reply.next == reply.message.rumours[-1].peer_id
