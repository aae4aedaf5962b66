"""Times and sizes as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from dstack_cli.output.words import ago, duration, memory, size

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (timedelta(seconds=-5), "now"),
        (timedelta(0), "now"),
        (timedelta(seconds=1), "1 sec ago"),
        (timedelta(seconds=59), "59 sec ago"),
        (timedelta(seconds=60), "1 min ago"),
        (timedelta(minutes=3, seconds=59), "3 mins ago"),
        (timedelta(minutes=59), "59 mins ago"),
        (timedelta(hours=1), "1 hour ago"),
        (timedelta(hours=23), "23 hours ago"),
        (timedelta(hours=24), "yesterday"),
        (timedelta(days=2), "2 days ago"),
        (timedelta(days=7), "1 week ago"),
        (timedelta(days=29), "4 weeks ago"),
        (timedelta(days=30), "1 month ago"),
        (timedelta(days=364), "12 months ago"),
        (timedelta(days=365), "1 year ago"),
        (timedelta(days=800), "2 years ago"),
    ],
)
def test_times_are_told_as_the_documents_tell_them(passed: timedelta, words: str) -> None:
    assert ago(NOW - passed, NOW) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (12, "12s"),
        (251, "4m11s"),
        (3840, "1h04m"),
        (266400, "3d02h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_100_000, "3.1 MB"),
        (9_960_000, "10 MB"),
        (999_600_000, "1.0 GB"),
        (41 * 10**9, "41 GB"),
    ],
)
def test_sizes_are_decimal(count: int, words: str) -> None:
    assert size(count) == words


def test_memory_is_binary() -> None:
    assert memory(64 * 2**30) == "64GiB"
    assert memory(2**29) == "0.5GiB"
    assert memory(8 * 2**30) == "8GiB"
