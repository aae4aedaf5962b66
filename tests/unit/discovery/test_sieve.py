"""What of a network's multicast DNS is looked at."""

import secrets
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.discovery.announcement import tag_of
from dstack_mesh.discovery.sieve import (
    MOST_INSTANCES,
    Bucket,
    Everybody,
    Holder,
    Members,
    Nobody,
    Sieve,
)
from support.adverts import advert, query

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def of(key: bytes, instance: str | None = None) -> bytes:
    name = instance or secrets.token_hex(8)
    return advert(name, tag_of(key, name), "10.0.0.1", 7420)


def test_an_advert_of_our_mesh_passes_and_one_of_another_does_not() -> None:
    sieve = Sieve(Members(KEY))
    assert sieve.takes(of(KEY), "10.0.0.1", 0.0)
    assert not sieve.takes(of(OTHER_KEY), "10.0.0.1", 0.0)


def test_what_a_known_instance_sends_later_passes_without_its_tag() -> None:
    sieve = Sieve(Members(KEY))
    instance = secrets.token_hex(8)
    bare = advert(instance, "", "10.0.0.1", 7420)
    assert not sieve.takes(bare, "10.0.0.1", 0.0)
    assert sieve.takes(of(KEY, instance), "10.0.0.1", 0.0)
    assert sieve.takes(bare, "10.0.0.1", 0.0)


def test_a_flood_of_a_member_that_was_overheard_is_let_through_slowly() -> None:
    sieve = Sieve(Members(KEY))
    replayed = of(KEY)
    passed = sum(sieve.takes(replayed, "10.0.0.9", second / 1000) for second in range(10_000))
    assert 10 <= passed <= 60
    assert sieve.takes(of(KEY), "10.0.0.1", 10.0), "another member is not held up by it"


def test_a_flood_of_strangers_leaves_nothing_behind() -> None:
    members = Members(KEY)
    for _ in range(5000):
        assert not members.takes(of(OTHER_KEY), 0.0)
    assert members._known == {}  # pyright: ignore[reportPrivateUsage]
    for _ in range(MOST_INSTANCES + 100):
        assert members.takes(of(KEY), 0.0)
    assert len(members._known) == MOST_INSTANCES  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("interest", [Nobody(), Members(KEY), Everybody(), Holder("7K3V")])
def test_what_does_not_speak_of_our_service_or_is_cut_off_is_dropped(interest: Everybody) -> None:
    sieve = Sieve(interest)
    printer = of(KEY).replace(b"_dstack-mesh", b"_ipp-printer")
    cut_off = bytearray(of(KEY))
    cut_off[2] |= 0x02
    for packet in (b"", b"x" * 12, printer, bytes(cut_off), of(KEY) + b"x" * 9000):
        assert not sieve.takes(packet, "10.0.0.1", 0.0)


def test_questions_about_us_pass_up_to_a_limit() -> None:
    sieve = Sieve(Nobody())
    passed = sum(sieve.takes(query(), "10.0.0.1", 0.0) for _ in range(1000))
    assert passed == 100
    assert not sieve.takes(of(KEY), "10.0.0.1", 0.0)


def test_a_newcomer_hears_only_its_invitation() -> None:
    sieve = Sieve(Holder("7K3V"))
    instance = secrets.token_hex(8)
    assert sieve.takes(advert(instance, "", "10.0.0.1", 1, b"i=7K3V"), "10.0.0.1", 0.0)
    assert not sieve.takes(advert(instance, "", "10.0.0.1", 1, b"i=XXXX"), "10.0.0.1", 0.0)


@given(st.binary(max_size=400), st.floats(0, 1e6))
def test_any_bytes_are_decided_about(packet: bytes, now: float) -> None:
    sieve = Sieve(Members(KEY))
    for bytes_ in (packet, of(KEY)[:12] + packet + b"\x0c_dstack-mesh"):
        assert sieve.takes(bytes_, "10.0.0.1", now) in (True, False)


@given(st.lists(st.floats(0, 100), max_size=300))
def test_a_bucket_never_gives_more_than_its_rate(pauses: list[float]) -> None:
    bucket, now, taken = Bucket(5.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.takes(now)
    assert taken <= 10 + 5 * now + 1


def test_what_comes_from_another_interfaces_network_is_left_to_it() -> None:
    sieve = Sieve(Members(KEY), [IPv4Network("10.9.0.0/24")])
    assert not sieve.takes(of(KEY), "10.9.0.1", 0.0)
    assert sieve.takes(of(KEY), "10.0.0.1", 0.0)
    assert sieve.takes(of(KEY), "192.168.7.7", 0.0), "an alias of a neighbour's"
