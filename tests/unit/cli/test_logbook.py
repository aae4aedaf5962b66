"""Which part of a log is shown, and how its lines are stamped."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_cli.logbook import Selection, Stamps, Tail, moment
from dstack_cli.misused import Misused
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobKey, LogFrame, LogStream

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = JobKey(RunId("01A"), 0)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("30s", NOW - timedelta(seconds=30)),
        ("10m", NOW - timedelta(minutes=10)),
        ("2h", NOW - timedelta(hours=2)),
        ("1d", NOW - timedelta(days=1)),
        ("2w", NOW - timedelta(weeks=2)),
        ("2026-11-20T11:00:00+00:00", NOW - timedelta(hours=1)),
        ("2026-11-20T12:00:00+01:00", NOW - timedelta(hours=1)),
    ],
)
def test_times_are_understood(text: str, at: datetime) -> None:
    assert moment(text, NOW) == at


@pytest.mark.parametrize(
    "text",
    ["", "10", "m10", "yesterday", "10y", "99999999d", "9" * 5000 + "s", "0001-01-01T00:00+14:00"],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Misused):
        moment(text, NOW)


def test_only_frames_of_the_chosen_time_and_stream_are_taken() -> None:
    frames = [
        LogFrame(KEY, stream, 0, b"x", NOW + timedelta(minutes=minute))
        for stream in LogStream
        for minute in (0, 1, 2)
    ]
    chosen = Selection(
        stream="stderr", since=NOW + timedelta(minutes=1), until=NOW + timedelta(minutes=2)
    )
    assert [frame for frame in frames if chosen.takes(frame)] == [frames[4]]


@given(st.binary(max_size=60), st.integers(0, 6), st.data())
def test_the_last_lines_are_the_same_however_frames_are_cut(
    log: bytes, lines: int, data: st.DataObject
) -> None:
    tail = Tail(lines)
    at = 0
    while at < len(log):
        step = data.draw(st.integers(1, 10))
        tail.feed(log[at : at + step])
        at += step
    whole = log.split(b"\n")
    ends = [line + b"\n" for line in whole[:-1]] + ([whole[-1]] if whole[-1] else [])
    assert tail.end() == b"".join(ends[-lines:] if lines else [])


def test_each_line_is_stamped_once_however_frames_are_cut() -> None:
    mark = NOW.astimezone().strftime("%H:%M:%S ").encode()
    for at in range(8):
        stamps = Stamps()
        log = b"one\ntwo\n"
        shown = stamps.stamp(log[:at], NOW) + stamps.stamp(log[at:], NOW)
        assert shown == mark + b"one\n" + mark + b"two\n"
