"""At an invitation no address takes the room, the tries or the greetings of others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.faults import Busy, Forbidden
from dstack_mesh.ids import MeshId
from dstack_mesh.trust.crowd import (
    GREETING_SECONDS,
    GREETINGS,
    MOST_CONVERSATIONS,
    MOST_OF_A_SOURCE,
    MOST_SOURCES,
    Crowd,
)
from dstack_mesh.trust.invite import TRIES, Transcript
from dstack_mesh.wire.admission import source_of


def transcript(nonce: int) -> Transcript:
    name = nonce.to_bytes(32, "big")
    return Transcript(MeshId("m" * 32), "7K3V", b"l" * 32, b"k", name, b"n" * 32)


def nonce(number: int) -> bytes:
    return transcript(number).newcomer_nonce


def test_a_flood_from_one_address_ends_only_its_own_conversations() -> None:
    crowd = Crowd()
    crowd.keep("10.0.0.7", transcript(0))
    for number in range(1, 1000):
        crowd.keep("10.0.0.66", transcript(number))
    assert crowd.take("10.0.0.7", nonce(0)) is not None
    kept = [number for number in range(1000) if crowd.take("10.0.0.66", nonce(number))]
    assert kept == list(range(1000 - MOST_OF_A_SOURCE, 1000))


@given(st.lists(st.integers(0, 20), max_size=300))
def test_whoever_has_one_conversation_is_pushed_out_by_none_that_has_more(
    sources: list[int],
) -> None:
    crowd = Crowd()
    crowd.keep("newcomer", transcript(0))
    for number, source in enumerate(sources, start=1):
        crowd.keep(str(source), transcript(number))
    assert crowd.take("newcomer", nonce(0)) is not None
    kept = [n for n, source in enumerate(sources, start=1) if crowd.take(str(source), nonce(n))]
    assert len(kept) < MOST_CONVERSATIONS


def test_the_newcomer_goes_where_everybody_has_one_and_all_room_is_taken() -> None:
    crowd = Crowd()
    crowd.keep("newcomer", transcript(0))
    for number in range(1, MOST_CONVERSATIONS + 1):
        crowd.keep(str(number), transcript(number))
    assert crowd.take("newcomer", nonce(0)) is None  # what docs/security.md says remains


def test_a_conversation_is_ended_from_the_address_at_which_it_began_alone() -> None:
    crowd = Crowd()
    crowd.keep("10.0.0.7", transcript(0))
    crowd.keep("10.0.0.66", transcript(0))  # with the nonce that it saw go by
    assert crowd.take("10.0.0.8", nonce(0)) is None
    assert crowd.take("10.0.0.7", nonce(0)) is not None


def test_greetings_of_an_address_come_back_with_time_and_those_of_others_are_their_own() -> None:
    crowd = Crowd()
    for _ in range(GREETINGS):
        crowd.check("10.0.0.66", 100.0)
    for at in (100.0, 100.0 + GREETING_SECONDS * 0.9):
        with pytest.raises(Busy):
            crowd.check("10.0.0.66", at)
    crowd.check("10.0.0.7", 100.0)
    crowd.check("10.0.0.66", 100.0 + GREETING_SECONDS * 3)
    for number in range(MOST_SOURCES * 2):
        crowd.check(f"10.{number}", 200.0)


def test_after_its_tries_an_address_is_heard_no_more() -> None:
    crowd = Crowd()
    assert [crowd.tried_wrong("10.0.0.66") for _ in range(TRIES)] == [4, 3, 2, 1, 0]
    with pytest.raises(Forbidden):
        crowd.check_tries("10.0.0.66")
    with pytest.raises(Forbidden):
        crowd.check("10.0.0.66", 0.0)
    crowd.check("10.0.0.7", 0.0)


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("ipv4:10.0.0.7:51234", "10.0.0.7"),
        ("ipv6:%5B::1%5D:51234", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:51234", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:51234", "fe80::/64"),
        ("ipv6:[::ffff:10.0.0.7]:51234", "10.0.0.7"),
        ("unix:/run/x", "unix:/run/x"),
        ("", ""),
    ],
)
def test_an_address_is_read_from_what_grpc_calls_a_peer(peer: str, source: str) -> None:
    assert source_of(peer) == source
