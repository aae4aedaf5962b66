"""The audit log: whole lines whatever kills its writer, and nothing changed without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.audit.chain import Checked, Head, Segment, check, digest_of
from dstack_agent.audit.entry import Entry, Line, What, line_of
from dstack_agent.audit.log import AuditLog
from dstack_agent.audit.reading import HEAD, read_log, segments_in
from support.rounds import rounds, seeded

AT = datetime(2026, 11, 20, tzinfo=UTC)
MOST = 4
SEGMENT_BYTES = 4_000


def opened(folder: Path) -> AuditLog:
    return AuditLog(folder, lambda: AT, SEGMENT_BYTES, MOST)


def filled(folder: Path, lines: int) -> Path:
    log = opened(folder)
    for number in range(lines):
        log.write(entry(number))
    log.close()
    return folder


def entry(number: int) -> Entry:
    return Entry(What.STOPPED, "a" * 32, f"run-{number}", "ana-laptop", "submitter")


def read(folder: Path) -> Checked:
    return read_log(folder, MOST)


def test_lines_follow_each_other_over_files_and_restarts(tmp_path: Path) -> None:
    filled(filled(tmp_path, 15), 15)
    found = read(tmp_path)
    assert [line.seq for line in found.lines] == list(range(1, 31))
    assert len(segments_in(tmp_path)) > 1
    assert (found.wrong, found.torn) == ((), False)
    assert found.head is not None
    assert found.head.seq == 30


def test_files_are_bounded_and_for_the_owner_alone(tmp_path: Path) -> None:
    filled(tmp_path / "audit", 400)
    files = list((tmp_path / "audit").iterdir())
    assert len(segments_in(tmp_path / "audit")) == MOST
    assert sum(file.stat().st_size for file in files) < (MOST + 1) * SEGMENT_BYTES
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
    found = read(tmp_path / "audit")
    assert found.wrong == ()
    assert found.lines[-1].seq == 400
    assert found.lines[0].seq > 1, "the oldest went, which is no fault"


TEXT = st.text(max_size=300)


@given(TEXT, TEXT, TEXT, st.sampled_from(What), st.integers(1, 1 << 60))
def test_a_line_is_one_line_and_reads_back(
    who: str, about: str, why: str, what: What, seq: int
) -> None:
    line = Line(seq, AT, Entry(what, who, about, "", "", why), "f" * 64)
    encoded = line.encoded()
    assert encoded.count(b"\n") == 1
    assert len(encoded) < 10_000
    again = line_of(encoded)
    assert again.entry.who == who[:200]
    assert (again.seq, again.prev, again.entry.what) == (seq, "f" * 64, what)


def rewritten(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> Checked:
    """The log of one file with its lines changed by somebody."""
    (path,) = segments_in(folder)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    return read(folder)


def where(found: Checked) -> list[int]:
    return [wrong.line for wrong in found.wrong]


def test_an_altered_line_is_named(tmp_path: Path) -> None:
    def alter(lines: list[bytes]) -> list[bytes]:
        return [*lines[:3], lines[3].replace(b"run-3", b"run-9"), *lines[4:]]

    found = rewritten(filled(tmp_path, 9), alter)
    assert where(found) == [4]
    assert "was altered" in found.wrong[0].message


def test_the_last_line_cannot_be_altered_either(tmp_path: Path) -> None:
    found = rewritten(
        filled(tmp_path, 9), lambda lines: [*lines[:-1], lines[-1].replace(b"run-8", b"run-0")]
    )
    assert where(found) == [9]


def test_lines_that_were_cut_out_are_named(tmp_path: Path) -> None:
    found = rewritten(filled(tmp_path, 9), lambda lines: [*lines[:3], *lines[6:]])
    assert [wrong.message for wrong in found.wrong] == ["lines 4 to 6 are missing before it"]


def test_lines_that_were_cut_off_are_named_at_both_ends(tmp_path: Path) -> None:
    found = rewritten(filled(tmp_path / "end", 9), lambda lines: lines[:-2])
    assert ["lines 8 to 9 are missing after it" in one.message for one in found.wrong] == [True]
    found = rewritten(filled(tmp_path / "start", 9), lambda lines: lines[2:])
    assert ["lines 1 to 2 are missing before it" in one.message for one in found.wrong] == [True]
    found = rewritten(filled(tmp_path / "all", 9), lambda lines: [])
    assert [wrong.file for wrong in found.wrong] == [HEAD]


def test_lines_that_were_added_or_moved_are_named(tmp_path: Path) -> None:
    def add(lines: list[bytes]) -> list[bytes]:
        for number in (10, 11):
            line = Line(number, AT, entry(number), digest_of(lines[-1]))
            lines = [*lines, line.encoded()]
        return lines

    assert where(rewritten(filled(tmp_path / "added", 9), add)) == [11]
    found = rewritten(
        filled(tmp_path / "moved", 9), lambda lines: [*lines[:2], lines[0], *lines[2:]]
    )
    assert 3 in where(found)
    found = rewritten(filled(tmp_path / "noise", 9), lambda lines: [*lines, b"nothing\n"])
    assert where(found) == [10]


@given(st.integers(0, 1 << 30), st.integers(1, 255))
def test_any_changed_byte_is_noticed(place: int, by: int) -> None:
    lines: list[bytes] = []
    for number in range(1, 6):
        prev = digest_of(lines[-1]) if lines else ""
        lines.append(Line(number, AT, entry(number), prev).encoded())
    data, head = bytearray(b"".join(lines)), Head(5, digest_of(lines[-1]))
    assert check([Segment("one", bytes(data))], head, MOST).wrong == ()
    data[place % len(data)] ^= by
    found = check([Segment("one", bytes(data))], head, MOST)
    assert found.wrong, "a log that was changed passes for whole"


def test_a_torn_tail_is_no_fault_and_is_cut_by_the_next_writer(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    (path,) = segments_in(tmp_path)
    whole = path.read_bytes()
    for cut in (1, 7, 40):
        path.write_bytes(whole + whole.splitlines()[-1][:cut])
        found = read(tmp_path)
        assert (found.wrong, found.torn, len(found.lines)) == ((), True, 5)
    filled(tmp_path, 2)
    found = read(tmp_path)
    assert (found.wrong, found.torn) == ((), False)
    assert [line.seq for line in found.lines] == list(range(1, 8))


def test_a_full_disk_loses_lines_and_the_next_one_says_how_many(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.write(entry(1))
    full = os.open("/dev/full", os.O_RDWR)
    real, log._file = log._file, full  # pyright: ignore[reportPrivateUsage]
    log.write(entry(2))
    log.write(entry(3))
    log._file = real  # pyright: ignore[reportPrivateUsage]
    log.write(entry(4))
    log.close()
    os.close(full)
    found = read(tmp_path)
    assert found.wrong == ()
    assert [(line.entry.about, line.lost) for line in found.lines] == [("run-1", 0), ("run-4", 2)]


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from dstack_agent.audit.entry import Entry, What
from dstack_agent.audit.log import AuditLog
log = AuditLog(Path(sys.argv[1]), lambda: datetime.now(UTC), 4_000, 4)
print("ready", flush=True)
number = 0
while True:
    log.write(Entry(What.STOPPED, "a" * 32, f"run-{number}"))
    number += 1
    if number % 10 == 0:
        print(log._head.seq, flush=True)
"""


def test_a_killed_writer_leaves_whole_lines_and_loses_none_that_it_wrote(tmp_path: Path) -> None:
    """`DSTACK_CHAOS_ROUNDS=200` kills it so often."""
    chance: Random = seeded("audit")
    said = 0
    for _ in range(rounds(6)):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(chance.randint(1, 60)):
            said = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        found = read(tmp_path)
        assert found.wrong == (), found.wrong
        assert found.lines[-1].seq >= said
    filled(tmp_path, 1)
    assert read(tmp_path).wrong == ()


@pytest.mark.parametrize("damage", [b"", b"x", b"99999999999999999999999 y"])
def test_a_head_that_says_nothing_is_told(tmp_path: Path, damage: bytes) -> None:
    filled(tmp_path, 5)
    (tmp_path / HEAD).write_bytes(damage)
    assert [wrong.file for wrong in read(tmp_path).wrong]
