"""The line of a transfer says what is known, and no more."""

from dstack_cli.output.moving import Moved, Speed, moving_line


def test_the_line_says_bytes_speed_time_left_files_and_what_was_there() -> None:
    seen = Moved(1_500_000_000, 500_000_000, 250_000_000, 1204, looking=False)
    line = moving_line("pushing model", seen, 50_000_000.0)
    assert line == (
        "pushing model: 250 MB of 1.0 GB, 50 MB/s, 15s left, 1204 files, 500 MB were there"
    )


def test_until_all_was_looked_at_the_total_is_a_lower_bound_and_no_time_is_told() -> None:
    line = moving_line("pushing", Moved(1_000_000, 0, 500_000, 1, looking=True), 1_000_000.0)
    assert line == "pushing: 500 kB of ≥ 1.0 MB, 1.0 MB/s, 1 file"


def test_a_transfer_that_stands_still_says_so() -> None:
    line = moving_line("pulling", Moved(1_000_000, 0, 500_000, 0, looking=False), 0.0)
    assert line == "pulling: 500 kB of 1.0 MB, no bytes just now"


def test_the_speed_is_that_of_the_last_moments() -> None:
    speed = Speed()
    assert speed.at(0.0, 0) == 0.0
    assert speed.at(1.0, 100) == 100.0
    for second in range(2, 20):
        speed.at(float(second), 100)
    assert speed.at(20.0, 100) == 0.0
