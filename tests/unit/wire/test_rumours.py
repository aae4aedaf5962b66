"""What agents say of each other survives the wire, and what cannot be does not get past it."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.comparing import Question, Reply
from dstack_mesh.membership.pace import Pace
from dstack_mesh.membership.place import LONGEST_ADDRESS
from dstack_mesh.membership.rumour import HIGHEST_INCARNATION, Condition, Message, Rumour
from dstack_mesh.v1 import membership_pb2 as pb
from dstack_mesh.wire.rumours import (
    AHEAD_SECONDS,
    LONGEST_DIGEST,
    LONGEST_NAME,
    MOST_RUMOURS,
    message_from_wire,
    message_to_wire,
    question_from_wire,
    question_to_wire,
    reply_from_wire,
    reply_to_wire,
    rumour_from_wire,
    rumour_to_wire,
)

ANA, BOB = PeerId("a" * 32), PeerId("b" * 32)

peer_ids = st.from_regex(r"[a-z2-7]{32}", fullmatch=True).map(PeerId)
names = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=LONGEST_NAME)
addresses = st.from_regex(r"10\.0\.[0-9]\.[1-9]:7420", fullmatch=True).map(Address)
rumours = st.builds(
    Rumour,
    peer_ids,
    st.integers(0, int(time.time() * 1000)),
    st.sampled_from(Condition),
    st.sampled_from(AgentState),
    names.filter(str.isprintable),
    st.lists(addresses, max_size=8).map(tuple),
    st.lists(peer_ids, max_size=4).map(tuple),
)
words = st.builds(
    Rumour,
    st.just(ANA),
    st.integers(0, HIGHEST_INCARNATION),
    st.sampled_from([Condition.ALIVE, Condition.LEFT]),
)
messages = st.builds(Message, words, st.lists(rumours, max_size=5).map(tuple))


@given(messages, st.binary(max_size=8), st.just("") | peer_ids, st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_message_survives_the_wire(
    message: Message, fingerprint: bytes, after: str, same: bool
) -> None:
    word, others = message_to_wire(message)
    assert message_from_wire(pb.ProbeRequest(word=word, rumours=others), ANA) == message
    question = Question(message, fingerprint, after)
    assert question_from_wire(question_to_wire(question), ANA) == question
    reply = Reply(message, same, after)
    assert reply_from_wire(reply_to_wire(reply), ANA) == reply


def test_the_largest_message_has_less_than_64_kib() -> None:
    longest = Rumour(
        ANA,
        HIGHEST_INCARNATION,
        Condition.SUSPECT,
        AgentState.PAUSED,
        "\U0001f980" * LONGEST_NAME,
        tuple(Address("f" * LONGEST_ADDRESS) for _ in range(8)),
        (BOB,) * 4,
        "d" * LONGEST_DIGEST,
    )
    word, others = message_to_wire(Message(longest, (replace(longest, roster=""),) * 1000))
    request = pb.CompareRequest(word=word, rumours=others, fingerprint=b"f" * 8, after=ANA)
    assert len(others) == MOST_RUMOURS == Pace().most_page >= Pace().most_rumours
    assert request.ByteSize() <= 64 * 1024


def test_who_speaks_is_whom_tls_names_and_not_whom_the_message_names() -> None:
    own = rumour_to_wire(Rumour(BOB, 7, Condition.ALIVE))
    assert message_from_wire(pb.ProbeRequest(word=own), ANA).word.peer_id == ANA


def test_of_itself_a_peer_can_say_only_that_it_lives_or_leaves() -> None:
    for condition in Condition:
        own = rumour_to_wire(Rumour(ANA, 7, condition))
        said = message_from_wire(pb.ProbeRequest(word=own), ANA).word.condition
        assert said is (Condition.LEFT if condition is Condition.LEFT else Condition.ALIVE)


@pytest.mark.parametrize(
    "wrong",
    [
        pb.Rumour(),
        pb.Rumour(peer_id=BOB),
        pb.Rumour(peer_id="../etc", condition=pb.CONDITION_ALIVE),
        pb.Rumour(peer_id=BOB, condition=99),  # type: ignore[arg-type]
        pb.Rumour(peer_id=BOB, condition=pb.CONDITION_DEAD, incarnation=2**63),
    ],
)
def test_a_rumour_that_cannot_be_is_left_out_and_the_others_are_read(wrong: pb.Rumour) -> None:
    with pytest.raises(Invalid):
        rumour_from_wire(wrong)
    good = rumour_to_wire(Rumour(BOB, 3, Condition.SUSPECT))
    own = rumour_to_wire(Rumour(ANA, 7, Condition.ALIVE))
    message = message_from_wire(pb.ProbeRequest(word=own, rumours=[wrong, good]), ANA)
    assert [one.peer_id for one in message.rumours] == [BOB]


def test_nobody_speaks_for_another_with_a_number_that_it_cannot_reach() -> None:
    own = rumour_to_wire(Rumour(ANA, HIGHEST_INCARNATION, Condition.ALIVE))
    tomorrow = int((time.time() + AHEAD_SECONDS) * 1000)
    told = [
        rumour_to_wire(Rumour(BOB, incarnation, Condition.ALIVE))
        for incarnation in (HIGHEST_INCARNATION, tomorrow + 60_000, tomorrow - 60_000)
    ]
    message = message_from_wire(pb.ProbeRequest(word=own, rumours=told), ANA)
    assert message.word.incarnation == HIGHEST_INCARNATION, "of itself it says what it likes"
    assert [one.incarnation for one in message.rumours] == [tomorrow - 60_000]


def test_names_and_lists_are_cut_and_terminals_are_safe() -> None:
    told = pb.Rumour(
        peer_id=BOB,
        condition=pb.CONDITION_ALIVE,
        name="\x1b]52;c;" + "n" * 500,
        addresses=["evil.example:80", *["10.0.0.1:1"] * 100, "x" * 500],
        accusers=["no id", *[ANA] * 100],
    )
    read = rumour_from_wire(told)
    assert "\x1b" not in read.name
    assert len(read.name) <= LONGEST_NAME
    assert (set(read.addresses), len(read.accusers)) == ({"10.0.0.1:1"}, 3)
    assert len(read.addresses) <= 8


def test_a_state_that_a_newer_peer_invented_takes_no_jobs() -> None:
    told = pb.Rumour(peer_id=BOB, condition=pb.CONDITION_ALIVE, state=99)  # type: ignore[arg-type]
    assert rumour_from_wire(told).state is AgentState.PAUSED
