"""Merges of records: the same everywhere, whatever arrives in whatever order."""

import os
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.faults import Busy, Damaged, Invalid
from dstack_mesh.ids import PeerId
from dstack_mesh.records.checking import check_delta
from dstack_mesh.records.hybrid import ABSURD_MS, AHEAD_MS, Hybrid
from dstack_mesh.records.pen import TOMBSTONE_MS, Pen, next_incarnation
from dstack_mesh.records.record import (
    KEY_BYTES,
    NOTHING,
    PAYLOAD_BYTES,
    Delta,
    Entry,
    Version,
    encode_body,
    record_of,
)
from dstack_mesh.records.replica import RETIRED_MS, Bounds, Outcome, Replica
from dstack_mesh.records.stream import Stream, stream_of
from dstack_mesh.signing import Signer
from support.rounds import seeded

NOW = 1_900_000_000_000
LATE = NOW + 2 * TOMBSTONE_MS


def signer() -> Signer:
    return Signer(ec.generate_private_key(ec.SECP256R1()))


SIGNERS = [signer() for _ in range(2)]


class Writer:
    """Writes a stream and remembers every version of it."""

    def __init__(self, by: Signer, incarnation: int = 1) -> None:
        self.pen = Pen(by, incarnation)
        self.time = Hybrid()
        self.stream: Stream | None = None
        self.versions: list[Stream] = []

    def write(self, *entries: Entry, now_ms: int = NOW) -> Stream:
        self.time = self.time.next(now_ms)
        self.stream = self.pen.write(self.stream, entries, self.time, now_ms)
        self.versions.append(self.stream)
        return self.stream


def said(replica: Replica) -> dict[tuple[PeerId, str], bytes]:
    """What a replica shows."""
    return {
        (writer, record.entry.key): record.entry.payload
        for writer, stream in replica.streams.items()
        for record in stream.records.values()
        if not record.hidden(NOW)
    }


def word(key: str, payload: bytes = b"x", **options: object) -> Entry:
    return replace(Entry("run", key, payload), **options)  # pyright: ignore[reportArgumentType]


# One writer


def test_what_is_said_later_about_the_same_thing_replaces_what_was_said() -> None:
    writer = Writer(SIGNERS[0])
    writer.write(word("a", b"1"), word("b", b"1"))
    last = writer.write(word("a", b"2"))
    assert {r.entry.key: r.entry.payload for r in last.records.values()} == {"a": b"2", "b": b"1"}


def test_every_version_is_signed_and_nothing_can_be_changed_added_or_left_out() -> None:
    writer = Writer(SIGNERS[0])
    stream = writer.write(word("a"), word("b"))
    whole = stream.since(NOTHING)
    check_delta(whole)
    body = whole.records[0].body
    forged = record_of(body[:-1] + b"y", whole.records[0].signature)
    with pytest.raises(Damaged):
        check_delta(replace(whole, records=(forged, whole.records[1])))
    assert stream_of(None, replace(whole, records=whole.records[:1])) is None
    other = Writer(SIGNERS[1]).write(word("c"))
    foreign = (*whole.records, *other.records.values())
    assert stream_of(None, replace(whole, records=foreign)) is None


def test_a_relay_that_claims_a_version_that_was_never_written_is_found_out() -> None:
    stream = Writer(SIGNERS[0]).write(word("a"))
    signed = stream.head.signed
    body = bytearray(signed.body)
    body[16] += 1
    lie = replace(stream.head, seq=9, signed=replace(signed, body=bytes(body)))
    with pytest.raises(Damaged):
        check_delta(Delta(lie, tuple(stream.records.values())))


@given(
    st.text(max_size=60),
    st.text(max_size=10),
    st.binary(max_size=200),
    st.integers(0, 2**62),
    st.booleans(),
)
def test_records_survive_their_bytes(
    key: str, kind: str, payload: bytes, expires: int, gone: bool
) -> None:
    entry = Entry(kind, key, payload, expires, gone)
    if len(key.encode()) > KEY_BYTES or len(kind.encode()) > 32:
        return
    record = record_of(encode_body(entry, (3, 4), Hybrid(5, 6)), b"signature")
    assert (record.entry, record.place, record.at) == (entry, (3, 4), Hybrid(5, 6))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_record_are_refused(noise: bytes) -> None:
    with pytest.raises(Invalid):
        record_of(noise, b"")


def test_what_is_too_large_is_refused() -> None:
    writer = Writer(SIGNERS[0])
    writer.write(word("a", bytes(PAYLOAD_BYTES)))
    with pytest.raises(Invalid):
        writer.write(word("a", bytes(PAYLOAD_BYTES + 1)))
    with pytest.raises(Invalid):
        writer.write(word("a" * (KEY_BYTES + 1)))


# Expiry and tombstones


def test_what_was_taken_back_stays_taken_back_for_a_peer_that_was_away_for_long() -> None:
    writer = Writer(SIGNERS[0])
    replica = Replica()
    replica.merge(writer.write(word("a"), word("b")).since(NOTHING), NOW)
    away = replica.version(writer.pen.writer)
    writer.write(word("a", b"", gone=True))
    late = NOW + TOMBSTONE_MS + 1000
    last = writer.write(word("c"), now_ms=late)
    assert ("run", "a") not in last.records  # the tombstone is forgotten
    # What changed does not add up with what it has, so it begins with nothing.
    assert replica.merge(last.since(away), late) is Outcome.UNFIT
    assert replica.merge(last.since(NOTHING), late) is Outcome.TAKEN
    assert {key for _, key in said(replica)} == {"b", "c"}


def test_what_has_expired_is_not_shown_and_does_not_come_to_life() -> None:
    writer = Writer(SIGNERS[0])
    replica = Replica()
    first = writer.write(word("a", b"1"))
    second = writer.write(word("a", b"2", expires_ms=NOW - 1))
    replica.merge(second.since(NOTHING), NOW)
    assert replica.merge(first.since(NOTHING), NOW) is Outcome.KNOWN
    assert said(replica) == {}


def test_a_writer_that_is_silent_for_a_month_is_forgotten_and_not_told_again() -> None:
    writer = Writer(SIGNERS[0])
    stream = writer.write(word("a"))
    replica = Replica()
    replica.merge(stream.since(NOTHING), NOW)
    later = NOW + RETIRED_MS + 1
    assert replica.retire(later) == [writer.pen.writer]
    assert replica.merge(stream.since(NOTHING), later) is Outcome.KNOWN
    assert said(replica) == {}


# Copies of a writer


def test_a_restored_disk_goes_on_in_a_new_incarnation_that_everybody_follows() -> None:
    writer = Writer(SIGNERS[0], incarnation=next_incarnation(0, NOW, 7))
    copy = writer.write(word("a", b"1"))
    writer.write(word("b", b"lost with the disk"))
    lost = writer.write(word("a", b"2"))
    replica = Replica()
    replica.merge(lost.since(NOTHING), NOW)
    restored = Writer(SIGNERS[0], next_incarnation(copy.head.incarnation, NOW + 1, 7))
    restored.stream = copy
    new = restored.write(word("c"))
    assert new.version > lost.version
    assert replica.merge(new.since(lost.version), NOW) is Outcome.UNFIT
    assert replica.merge(new.since(NOTHING), NOW) is Outcome.TAKEN
    assert {key: text for (_, key), text in said(replica).items()} == {"a": b"1", "c": b"x"}
    assert replica.merge(lost.since(NOTHING), NOW) is Outcome.KNOWN


def test_two_that_write_from_one_copy_are_told_apart_the_same_way_everywhere() -> None:
    one, two = Writer(SIGNERS[0], 5), Writer(SIGNERS[0], 5)
    a, b = one.write(word("a")), two.write(word("b"))
    orders = [[a, b], [b, a], [a, b, a], [b, a, b]]
    shown: list[dict[tuple[PeerId, str], bytes]] = []
    for order in orders:
        replica = Replica()
        for stream in order:
            replica.merge(stream.since(NOTHING), NOW)
        shown.append(said(replica))
    assert all(one == shown[0] for one in shown)


@given(st.integers(0, 2**60), st.integers(0, 2**41), st.integers(0, 2**20 - 1))
def test_incarnations_only_grow_whatever_the_clock_does(last: int, now: int, bits: int) -> None:
    assert next_incarnation(last, now, bits) > last


# Time and bounds


def test_a_clock_that_is_wrong_pulls_nobody_along_and_an_absurd_one_is_refused() -> None:
    ours = Hybrid(NOW)
    assert ours.hearing(Hybrid(NOW + AHEAD_MS), NOW) == Hybrid(NOW + AHEAD_MS)
    assert ours.hearing(Hybrid(NOW + AHEAD_MS + 1), NOW) == ours
    stream = Writer(SIGNERS[0]).write(word("a"), now_ms=NOW + ABSURD_MS + 1)
    with pytest.raises(Invalid):
        Replica().merge(stream.since(NOTHING), NOW)


@given(st.lists(st.integers(0, 5), min_size=1))
def test_time_never_stands_still_or_goes_back(steps: list[int]) -> None:
    time = Hybrid(3)
    for now in steps:
        assert time.next(now) > time
        time = time.next(now)


def test_what_would_take_too_much_room_is_refused_and_what_was_held_stays() -> None:
    first, second = (Writer(by).write(word("a"), word("b")) for by in SIGNERS)
    for bounds in (Bounds(writers=1), Bounds(total_bytes=first.size_bytes)):
        replica = Replica(bounds)
        replica.merge(first.since(NOTHING), NOW)
        with pytest.raises(Busy):
            replica.merge(second.since(NOTHING), NOW)
        assert replica.streams.keys() == {first.writer}
    for bounds in (Bounds(records=1), Bounds(stream_bytes=10)):
        with pytest.raises(Busy):
            Replica(bounds).merge(first.since(NOTHING), NOW)


# Any interleaving


def history(chance: random.Random, by: Signer, steps: int) -> list[Stream]:
    """Versions of a writer that restarts, takes back and lets expire."""
    writer = Writer(by)
    for _ in range(steps):
        if chance.random() < 0.1:
            writer.pen = replace(writer.pen, incarnation=writer.pen.incarnation + 1)
        entries = [
            Entry(
                "run",
                chance.choice("abcd"),
                chance.randbytes(3),
                expires_ms=chance.choice([0, 0, 0, NOW - 5]),
                gone=chance.random() < 0.2,
            )
            for _ in range(chance.randrange(3))
        ]
        forgets = 2 * TOMBSTONE_MS if chance.random() < 0.1 else 0
        writer.write(*entries, now_ms=NOW + forgets)
    return writer.versions


def deltas(chance: random.Random, versions: Sequence[Stream]) -> list[Delta]:
    """What peers may send of these: from any version to any later one, sometimes cut off."""
    found: list[Delta] = []
    for stream in versions:
        since = chance.choice([NOTHING, *(one.version for one in versions), Version(1, 99, 0)])
        delta = stream.since(since)
        if chance.random() < 0.2 and delta.records:
            delta = replace(delta, records=delta.records[: chance.randrange(len(delta.records))])
        found.append(delta)
    return found


def exact(replica: Replica, versions: dict[tuple[PeerId, Version], Stream]) -> bool:
    """The invariant: of each writer exactly what it held at that version."""
    return all(
        stream.records == versions[writer, stream.version].records
        for writer, stream in replica.streams.items()
    )


def test_any_interleaving_of_merges_ends_in_the_same_state_and_nothing_resurrects() -> None:
    """Runs 10^6 merges with DSTACK_RECORD_MERGES=1000000."""
    chance = seeded("merges")
    most = int(os.environ.get("DSTACK_RECORD_MERGES", "3000"))
    merges = 0
    while merges < most:
        streams = [history(chance, by, chance.randrange(1, 9)) for by in SIGNERS]
        versions = {(one.writer, one.version): one for each in streams for one in each}
        sent = [delta for each in streams for delta in deltas(chance, each)]
        for _ in range(40):
            # Sent in any order, some twice, some never; then the last whole state of each.
            order = chance.choices(sent, k=chance.randrange(len(sent) * 2))
            replicas = [Replica() for _ in range(2)]
            for replica in replicas:
                chance.shuffle(order)
                merges += merged(replica, order, versions)
                merges += merged(replica, [one[-1].since(NOTHING) for one in streams], versions)
            last = {s[-1].writer: s[-1].version for s in streams}
            assert [replica.versions() for replica in replicas] == [last, last]
            assert said(replicas[0]) == said(replicas[1])
            before = replicas[0].versions()
            merges += merged(replicas[0], order, versions)  # again: nothing changes
            assert replicas[0].versions() == before
    print(f"{merges:,} merges")


def merged(
    replica: Replica, order: Sequence[Delta], versions: dict[tuple[PeerId, Version], Stream]
) -> int:
    for delta in order:
        before = replica.version(delta.writer)
        outcome = replica.merge(delta, LATE)
        after = replica.version(delta.writer)
        assert after >= before
        assert (outcome is Outcome.TAKEN) == (after > before)
        stream = replica.streams.get(delta.writer)
        assert stream is None or stream.records == versions[delta.writer, after].records
    return len(order)


def test_the_checker_notices_a_replica_that_holds_what_its_writer_did_not() -> None:
    first, second = (lambda w: (w.write(word("a")), w.write(word("b"))))(Writer(SIGNERS[0]))
    versions = {(one.writer, one.version): one for one in (first, second)}
    replica = Replica()
    replica.put(replace(second, records=first.records))
    assert not exact(replica, versions)


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_exchanges_between_any_pairs_make_all_peers_the_same(chance: random.Random) -> None:
    streams = [history(chance, by, 4) for by in SIGNERS]
    peers = [Replica() for _ in range(4)]
    for each in streams:
        peers[chance.randrange(4)].merge(each[-1].since(NOTHING), LATE)
        peers[chance.randrange(4)].merge(each[0].since(NOTHING), LATE)
    for _ in range(3):
        for one in peers:
            for other in peers:
                for delta in list(other.lacking(one.versions())):
                    if one.merge(delta, LATE) is Outcome.UNFIT:
                        whole = other.streams[delta.writer].since(NOTHING)
                        assert one.merge(whole, LATE) is Outcome.TAKEN
    assert all(said(peer) == said(peers[0]) for peer in peers)
    assert all(peer.versions() == peers[0].versions() for peer in peers)
