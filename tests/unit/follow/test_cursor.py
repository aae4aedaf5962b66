"""A reader's place in a log: every byte once, whatever comes twice, late or not at all."""

from datetime import UTC, datetime

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.ids import Digest, RunId
from dstack_scheduler.cursor import Cursor, Hole
from dstack_scheduler.job import Fin, Gap, JobKey, JobState, LogFrame, LogStream, StateChange

KEY = JobKey(RunId("0" * 26), 0)
AT = datetime(2026, 11, 20, tzinfo=UTC)
OUT = LogStream.STDOUT


def frame(offset: int, data: bytes, stream: LogStream = OUT) -> LogFrame:
    return LogFrame(KEY, stream, offset, data, AT)


def fin(out: bytes, err: bytes = b"") -> Fin:
    return Fin(
        KEY,
        StateChange(KEY, JobState.DONE, AT),
        len(out),
        Digest(blake3(out).digest()),
        len(err),
        Digest(blake3(err).digest()),
    )


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 200), st.integers(1, 50))))
def test_frames_cut_anywhere_and_sent_again_give_every_byte_once(
    written: bytes, cuts: list[tuple[int, int]]
) -> None:
    cursor, read = Cursor(KEY), bytearray()
    for back, length in [*cuts, (0, max(1, len(written)))]:
        start = max(0, cursor.offset(OUT) - back)
        new = cursor.frame(frame(start, written[start : start + length + back]))
        read += new.data if new is not None else b""
    rest = cursor.frame(frame(cursor.offset(OUT), written[cursor.offset(OUT) :]))
    read += rest.data if rest is not None else b""

    assert bytes(read) == written
    assert cursor.fin(fin(written)) == []


def test_a_frame_that_is_known_is_dropped() -> None:
    cursor = Cursor(KEY)
    cursor.frame(frame(0, b"abc"))

    assert cursor.frame(frame(0, b"abc")) is None
    assert cursor.frame(frame(1, b"bcde")) == frame(3, b"de")


def test_the_streams_do_not_disturb_each_other() -> None:
    cursor = Cursor(KEY)
    cursor.frame(frame(0, b"out"))

    assert cursor.frame(frame(0, b"err", LogStream.STDERR)) is not None
    assert cursor.offsets == (3, 3)


def test_bytes_that_are_skipped_in_silence_are_a_hole() -> None:
    cursor = Cursor(KEY)
    cursor.frame(frame(0, b"abc"))

    with pytest.raises(Hole) as hole:
        cursor.frame(frame(5, b"f"))

    assert (hole.value.from_bytes, hole.value.to_bytes) == (3, 5)
    gap = cursor.skip(hole.value)
    assert (gap.from_bytes, gap.to_bytes) == (3, 5)
    assert cursor.frame(frame(5, b"f")) is not None


def test_a_gap_that_is_said_moves_on_and_voids_the_hash() -> None:
    cursor = Cursor(KEY)
    cursor.frame(frame(0, b"abc"))

    assert cursor.gap(Gap(KEY, OUT, 1, 6, "lost")) == Gap(KEY, OUT, 3, 6, "lost")
    assert cursor.gap(Gap(KEY, OUT, 1, 6, "lost")) is None
    assert cursor.fin(fin(b"abcdef")) == []


def test_a_log_that_is_shorter_than_its_fin_is_a_hole() -> None:
    cursor = Cursor(KEY)
    cursor.frame(frame(0, b"abc"))

    with pytest.raises(Hole):
        cursor.fin(fin(b"abcd"))


def test_other_bytes_than_those_written_are_noticed() -> None:
    cursor = Cursor(KEY)
    cursor.frame(frame(0, b"abX"))

    (wrong,) = cursor.fin(fin(b"abc"))

    assert (wrong.from_bytes, wrong.to_bytes) == (0, 3)


def test_who_reads_from_the_middle_cannot_know_the_hash() -> None:
    cursor = Cursor(KEY, stdout_offset=2)
    cursor.frame(frame(2, b"X"))

    assert cursor.fin(fin(b"abc")) == []


def test_the_newest_attempt_gets_its_number_from_the_first_event() -> None:
    cursor = Cursor(JobKey(KEY.run_id, 0, 0))

    assert cursor.concerns(JobKey(KEY.run_id, 0, 3))
    assert cursor.key.attempt == 3
    assert not cursor.concerns(JobKey(KEY.run_id, 0, 4))
    assert not cursor.concerns(JobKey(KEY.run_id, 1, 3))
