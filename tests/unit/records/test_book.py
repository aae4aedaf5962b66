"""The book of records: what is checked, what is kept, and a home that was put back."""

import asyncio
import logging
import shutil
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Busy, Damaged, Refused
from dstack_mesh.ids import PeerId
from dstack_mesh.records import book as book_module
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.record import NOTHING, Delta, Entry, record_of
from dstack_mesh.records.replica import Bounds, Outcome
from dstack_mesh.records.store import RecordStore
from dstack_mesh.signing import Signer
from support.meshes import OffClock

KEY = Signer(ec.generate_private_key(ec.SECP256R1()))
OTHER = Signer(ec.generate_private_key(ec.SECP256R1()))


@asynccontextmanager
async def opened(path: Path, key: Signer = KEY, **options: object) -> AsyncGenerator[RecordBook]:
    store = RecordStore(path)
    try:
        book = RecordBook(store, key, SystemClock(), **options)  # pyright: ignore[reportArgumentType]
        await book.open()
        yield book
    finally:
        store.close()


def word(key: str, payload: bytes = b"x") -> Entry:
    return Entry("run", key, payload)


def shown(book: RecordBook, writer: PeerId) -> dict[str, bytes]:
    stream = book.streams.get(writer)
    records = stream.records.values() if stream is not None else ()
    return {record.entry.key: record.entry.payload for record in records}


def whole(book: RecordBook) -> Delta:
    delta = book.since(book.writer, NOTHING)
    assert delta is not None
    return delta


async def test_our_own_words_survive_a_restart_and_go_on_in_a_new_incarnation(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "a.db") as book:
        await book.write([word("a"), word("b", b"1")])
        await book.write([word("b", b"2")])
        before = book.versions()[book.writer]
    async with opened(tmp_path / "a.db") as book:
        assert shown(book, book.writer) == {"a": b"x", "b": b"2"}
        await book.write([word("c")])
        assert book.versions()[book.writer] > before
        assert shown(book, book.writer).keys() == {"a", "b", "c"}


async def test_what_others_wrote_is_kept_and_told_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as ours, opened(tmp_path / "b.db", OTHER) as theirs:
        await theirs.write([word("a")])
        heard: list[tuple[PeerId, PeerId | None]] = []
        ours.listen(lambda writer, base, source: heard.append((writer, source)))
        assert await ours.take(whole(theirs), PeerId("relay")) is Outcome.TAKEN
        assert await ours.take(whole(theirs), PeerId("relay")) is Outcome.KNOWN
        assert heard == [(theirs.writer, PeerId("relay"))]
        writer = theirs.writer
    async with opened(tmp_path / "a.db") as ours:
        assert shown(ours, writer) == {"a": b"x"}
        [delta] = [one for one in ours.lacking({}) if one.writer == writer]
    async with opened(tmp_path / "c.db") as third:
        assert await third.take(delta, None) is Outcome.TAKEN


async def test_a_forged_record_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as ours, opened(tmp_path / "b.db", OTHER) as theirs:
        await theirs.write([word("a")])
        delta = whole(theirs)
        [record] = delta.records
        forged = record_of(record.body[:-1] + b"y", record.signature)
        with pytest.raises(Damaged):
            await ours.take(replace(delta, records=(forged,)), None)
        stolen = replace(delta.head, signed=replace(delta.head.signed, key=KEY.public_key))
        with pytest.raises(Damaged):
            await ours.take(Delta(replace(stolen), delta.records), None)
        assert not ours.streams


async def test_what_a_stranger_wrote_is_not_held(tmp_path: Path) -> None:
    async with (
        opened(tmp_path / "a.db", may_write=KEY.peer_id.__eq__) as ours,
        opened(tmp_path / "b.db", OTHER) as theirs,
    ):
        await theirs.write([word("a")])
        assert await ours.take(whole(theirs), None) is Outcome.KNOWN
        assert not ours.streams


async def test_a_disk_that_was_put_back_is_noticed_and_nothing_forks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "a.db") as ours:
        await ours.write([word("a", b"1")])
    shutil.copy(tmp_path / "a.db", tmp_path / "copy.db")
    async with opened(tmp_path / "other.db", OTHER) as theirs:
        async with opened(tmp_path / "a.db") as ours:
            await ours.write([word("a", b"2"), word("b")])
            lost = whole(ours)
            await theirs.take(lost, None)
        async with opened(tmp_path / "copy.db") as restored:
            await restored.write([word("c")])
            # Whichever incarnation is higher, both hear of each other and agree.
            with caplog.at_level(logging.WARNING):
                await restored.take(lost, None)
            assert await theirs.take(whole(restored), None) in (Outcome.TAKEN, Outcome.KNOWN)
            assert theirs.versions()[KEY.peer_id] == restored.versions()[KEY.peer_id]
            assert shown(theirs, KEY.peer_id) == {"a": b"1", "c": b"x"}


async def test_words_of_ours_that_we_did_not_write_make_us_go_beyond_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "a.db") as first, opened(tmp_path / "copy.db") as second:
        await first.write([word("a")])
        await second.write([word("b")])
        # Of two that begin within a millisecond either may be the higher one.
        one, two = sorted((first, second), key=lambda book: book.versions()[KEY.peer_id])
        with caplog.at_level(logging.WARNING):
            assert await one.take(whole(two), None) is Outcome.KNOWN
        assert one.versions()[KEY.peer_id] > two.versions()[KEY.peer_id]
    assert "a copy of its home runs elsewhere" in caplog.text


async def test_a_damaged_row_costs_one_stream_which_is_heard_again(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as ours, opened(tmp_path / "b.db", OTHER) as theirs:
        await theirs.write([word("a"), word("b")])
        await ours.write([word("ours")])
        await ours.take(whole(theirs), None)
        delta = whole(theirs)
    import sqlite3

    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("DELETE FROM record WHERE writer = ? AND seq = 1", (OTHER.peer_id,))
    database.close()
    async with opened(tmp_path / "a.db") as ours:
        assert ours.streams.keys() == {KEY.peer_id}
        assert await ours.take(delta, None) is Outcome.TAKEN


async def test_records_of_a_newer_version_are_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db"):
        pass
    import sqlite3

    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(Refused):
        RecordStore(tmp_path / "a.db")


async def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as book:
        await asyncio.gather(*(book.write([word(f"{n}")]) for n in range(20)))
        assert len(shown(book, book.writer)) == 20
    async with opened(tmp_path / "a.db") as book:
        assert len(shown(book, book.writer)) == 20


async def test_who_is_believed_no_more_is_set_aside_at_once_and_for_good(tmp_path: Path) -> None:
    believed = {OTHER.peer_id}
    may_write = believed.__contains__
    async with opened(tmp_path / "b.db", OTHER) as theirs:
        await theirs.write([word("a")])
        async with opened(tmp_path / "a.db", may_write=may_write) as ours:
            await ours.take(whole(theirs), None)
            believed.clear()
            assert ours.reconsider() == set()
            assert OTHER.peer_id not in {*ours.streams, *ours.versions()}
            assert OTHER.peer_id not in {delta.writer for delta in ours.lacking({})}
            assert ours.since(OTHER.peer_id, NOTHING) is None
            await theirs.write([word("b")])
            assert await ours.take(whole(theirs), None) is Outcome.KNOWN
            assert set(ours.past[OTHER.peer_id].records) == {("run", "a")}
        async with opened(tmp_path / "a.db", may_write=may_write) as ours:
            assert OTHER.peer_id not in ours.streams
            assert set(ours.past[OTHER.peer_id].records) == {("run", "a")}
            believed.add(OTHER.peer_id)
            ours.reconsider()
            assert shown(ours, OTHER.peer_id) == {"a": b"x"}
            assert not ours.past


async def test_who_was_not_believed_yet_is_asked_for_again_once(tmp_path: Path) -> None:
    believed: set[PeerId] = set()
    async with (
        opened(tmp_path / "a.db", may_write=believed.__contains__) as ours,
        opened(tmp_path / "b.db", OTHER) as theirs,
    ):
        await theirs.write([word("a")])
        assert not ours.wants(whole(theirs).head)
        assert ours.reconsider() == set()
        believed.add(OTHER.peer_id)
        assert ours.reconsider() == {OTHER.peer_id}
        assert ours.reconsider() == set()
        assert ours.wants(whole(theirs).head)


async def test_what_is_set_aside_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "MOST_SET_ASIDE", 2)
    keys = [Signer(ec.generate_private_key(ec.SECP256R1())) for _ in range(4)]
    believed = {one.peer_id for one in keys}
    async with opened(tmp_path / "a.db", may_write=believed.__contains__) as ours:
        for number, key in enumerate(keys):
            async with opened(tmp_path / f"{number}.db", key) as theirs:
                await theirs.write([word("a")])
                await ours.take(whole(theirs), None)
        believed.clear()
        ours.reconsider()
        assert len(ours.past) == 2
    async with opened(tmp_path / "a.db", may_write=believed.__contains__) as ours:
        assert len(ours.past) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder))
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs root to mount a small disk")
    yield folder
    subprocess.run(("umount", str(folder)), check=True)


async def test_words_of_ours_that_come_back_while_the_disk_is_full_do_no_harm(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        opened(small_disk / "a.db") as one,
        opened(tmp_path / "copy.db") as two,  # later, so its incarnation is higher
    ):
        await one.write([word("a")])
        await two.write([word("b")])
        before = one.versions()
        with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        with caplog.at_level(logging.WARNING):
            assert await one.take(whole(two), None) is Outcome.KNOWN
        assert "are not on disk" in caplog.text
        assert one.versions() == before
        (small_disk / "filler").unlink()
        assert await one.take(whole(two), None) is Outcome.KNOWN
        assert one.versions()[KEY.peer_id] > two.versions()[KEY.peer_id]


async def test_what_is_too_much_of_our_own_is_refused_before_it_is_on_disk(tmp_path: Path) -> None:
    bounds = Bounds(stream_bytes=100_000)
    async with opened(tmp_path / "a.db", bounds=bounds) as book:
        await book.write([word("a", bytes(40_000)), word("b", bytes(40_000))])
        before = book.versions()
        with pytest.raises(Busy):
            await book.write([word("c", bytes(40_000))])
        assert book.versions() == before
    async with opened(tmp_path / "a.db", bounds=bounds) as book:
        assert shown(book, KEY.peer_id).keys() == {"a", "b"}
        await book.write([word("a", b"less"), word("c", bytes(40_000))])
        assert shown(book, KEY.peer_id).keys() == {"a", "b", "c"}


async def test_what_does_not_fit_any_more_is_dropped_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "a.db") as ours, opened(tmp_path / "b.db", OTHER) as theirs:
        await ours.write([word("a"), word("b")])
        await theirs.write([word("a")])
        await ours.take(whole(theirs), None)
    with caplog.at_level(logging.WARNING):
        async with opened(tmp_path / "a.db", bounds=Bounds(records=1)) as ours:
            assert ours.streams.keys() == {OTHER.peer_id}
            await ours.write([word("c")])
    assert "not kept any more" in caplog.text
    async with opened(tmp_path / "a.db") as ours:
        assert shown(ours, KEY.peer_id).keys() == {"c"}


async def test_our_own_words_have_room_whatever_others_sent(tmp_path: Path) -> None:
    bounds = Bounds(writers=1, total_bytes=50_000)
    async with opened(tmp_path / "b.db", OTHER) as theirs:
        await theirs.write([word("a", bytes(40_000))])
        for _ in range(2):
            async with opened(tmp_path / "a.db", bounds=bounds) as ours:
                await ours.take(whole(theirs), None)
                await ours.write([word("a", bytes(40_000))])
                assert ours.streams.keys() == {KEY.peer_id, OTHER.peer_id}


async def test_what_cannot_be_taken_is_said_once_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = Bounds(records=1)
    async with (
        opened(tmp_path / "a.db", bounds=bounds) as ours,
        opened(tmp_path / "b.db", OTHER) as theirs,
    ):
        await theirs.write([word("a"), word("b")])
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert await ours.take(whole(theirs), None) is Outcome.REFUSED
        assert len(caplog.messages) == 1 and OTHER.peer_id in caplog.text
        await theirs.write([replace(word("b"), expires_ms=1)])
        assert await ours.take(whole(theirs), None) is Outcome.TAKEN


async def test_a_writer_whose_clock_is_wrong_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as ours:
        store = RecordStore(tmp_path / "b.db")
        theirs = RecordBook(store, OTHER, OffClock(timedelta(days=3)))
        await theirs.open()
        await theirs.write([word("a")])
        assert await ours.take(whole(theirs), None) is Outcome.REFUSED
        store.close()


async def test_who_wrote_nothing_for_a_month_makes_room_for_others(tmp_path: Path) -> None:
    clock, third = OffClock(timedelta()), Signer(ec.generate_private_key(ec.SECP256R1()))
    bounds = Bounds(writers=1)
    store = RecordStore(tmp_path / "a.db")
    ours = RecordBook(store, KEY, clock, bounds=bounds)
    await ours.open()
    async with opened(tmp_path / "b.db", OTHER) as theirs:
        await theirs.write([word("a")])
        assert await ours.take(whole(theirs), None) is Outcome.TAKEN
    clock.off = timedelta(days=31)
    late = RecordStore(tmp_path / "c.db")
    newer = RecordBook(late, third, clock)
    await newer.open()
    await newer.write([word("a")])
    assert await ours.take(whole(newer), None) is Outcome.TAKEN
    assert ours.streams.keys() == {third.peer_id}
    for each in (store, late):
        each.close()
