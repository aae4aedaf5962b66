"""The journal gives back what was written: in order, from any offset, without a torn tail."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_agent.logs.journal import Frame, Hole, JournalReader
from dstack_agent.logs.layout import BLOCK_BYTES, HEADER_BYTES, PAYLOAD_BYTES, STDERR, STDOUT
from dstack_agent.logs.writer import JournalWriter
from dstack_scheduler.job import LogStream

STREAMS = (LogStream.STDOUT, LogStream.STDERR)
Writes = list[tuple[int, bytes]]
writes = st.lists(
    st.tuples(
        st.sampled_from((STDOUT, STDERR)),
        st.one_of(
            st.binary(min_size=1, max_size=50),
            st.integers(1, 3 * PAYLOAD_BYTES).map(lambda size: os.urandom(8) * (size // 8 + 1)),
        ),
    ),
    max_size=30,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def write(path: Path, pieces: Writes) -> None:
    writer = JournalWriter(str(path))
    for stream, data in pieces:
        writer.append(stream, data)
    writer.close()


def both(pieces: Writes) -> tuple[bytes, bytes]:
    out, err = (b"".join(data for each, data in pieces if each == stream) for stream in (0, 1))
    return out, err


def joined(pieces: list[Frame | Hole]) -> tuple[bytes, bytes]:
    frames = [each for each in pieces if isinstance(each, Frame)]
    out, err = (b"".join(each.data for each in frames if each.stream is s) for s in STREAMS)
    return out, err


def read_all(
    path: Path, stdout: int = 0, stderr: int = 0, limit: int = 1 << 40
) -> tuple[bytes, bytes]:
    reader = JournalReader(path)
    found = joined(list(follow(reader, stdout, stderr, limit)))
    reader.close()
    return found


def follow(
    reader: JournalReader, stdout: int = 0, stderr: int = 0, limit: int = 1 << 20
) -> Iterator[Frame | Hole]:
    """Everything there is, asked for as the agent does: from where it stopped."""
    while pieces := reader.read(stdout, stderr, limit):
        for piece in pieces:
            if piece.stream is LogStream.STDOUT:
                stdout = piece.end
            else:
                stderr = piece.end
        yield from pieces


@settings(deadline=None, max_examples=60)
@given(pieces=writes, data=st.data())
def test_any_offsets_give_exactly_what_follows_them(
    pieces: Writes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    write(path, pieces)
    out, err = both(pieces)
    stdout = data.draw(st.integers(0, len(out)))
    stderr = data.draw(st.integers(0, len(err)))
    limit = data.draw(st.integers(1, 1 << 20))
    assert read_all(path, stdout, stderr, limit) == (out[stdout:], err[stderr:])


def test_both_streams_come_in_the_order_they_were_written(path: Path) -> None:
    pieces = [(STDOUT, b"one\n"), (STDERR, b"oops\n"), (STDOUT, b"two\n")]
    write(path, pieces)
    reader = JournalReader(path)
    seen = [each.data for each in reader.read() if isinstance(each, Frame)]
    reader.close()
    assert seen == [b"one\n", b"oops\n", b"two\n"]


def test_a_reader_follows_while_the_journal_grows(path: Path) -> None:
    reader = JournalReader(path)
    assert reader.read() == []
    assert reader.lengths() == (0, 0)
    writer = JournalWriter(str(path))
    seen = b""
    for turn in range(3000):
        writer.append(STDOUT, b"%06d " % turn * 40)
        seen += joined(reader.read(len(seen)))[0]
    writer.close()
    assert seen == read_all(path)[0]
    assert reader.lengths() == (len(seen), 0)
    reader.close()


def test_a_tail_cut_at_any_byte_leaves_whole_frames_only(path: Path) -> None:
    kept: Writes = [(STDOUT, b"kept\n"), (STDERR, b"too\n")]
    write(path, kept)
    whole = path.stat().st_size
    write(path, [(STDOUT, b"lost when cut\n")])
    full = path.read_bytes()
    for size in range(whole, len(full)):
        path.write_bytes(full[:size])
        assert read_all(path) == both(kept), size
        writer = JournalWriter(str(path))
        assert (writer.stdout_bytes, writer.stderr_bytes) == (5, 4), size
        writer.append(STDOUT, b"on\n")
        writer.close()
        assert read_all(path) == (b"kept\non\n", b"too\n"), size


def test_a_tail_with_any_wrong_byte_is_cut(path: Path) -> None:
    write(path, [(STDOUT, b"kept\n")])
    whole = path.stat().st_size
    write(path, [(STDOUT, b"wrong\n")])
    full = path.read_bytes()
    for place in range(whole, len(full)):
        path.write_bytes(full[:place] + bytes([full[place] ^ 1]) + full[place + 1 :])
        assert read_all(path) == (b"kept\n", b""), place


def test_damage_in_the_middle_is_a_hole_and_the_rest_is_read(path: Path) -> None:
    pieces: Writes = [(number % 2, b"%08d" % number * 500) for number in range(400)]
    write(path, pieces)
    with path.open("r+b") as file:
        file.seek(BLOCK_BYTES + 5000)
        file.write(b"\0" * 10)
    reader = JournalReader(path)
    found = list(follow(reader))
    reader.close()
    holes = [each for each in found if isinstance(each, Hole)]
    assert {each.stream for each in holes} == set(STREAMS)
    for stream, data in zip(STREAMS, both(pieces), strict=True):
        filled = bytearray(len(data))
        for each in found:
            if each.stream is stream:
                part = each.data if isinstance(each, Frame) else data[each.offset : each.end]
                filled[each.offset : each.end] = part
        assert bytes(filled) == data
    assert sum(each.end - each.offset for each in holes) <= BLOCK_BYTES


def test_skipped_bytes_are_a_hole(path: Path) -> None:
    writer = JournalWriter(str(path))
    writer.append(STDOUT, b"before")
    writer.skip(STDOUT, 100)
    writer.append(STDOUT, b"after")
    writer.close()
    reader = JournalReader(path)
    first, hole, second = reader.read()
    reader.close()
    assert hole == Hole(LogStream.STDOUT, 6, 106)
    assert isinstance(first, Frame) and first.data == b"before"
    assert isinstance(second, Frame) and (second.offset, second.data) == (106, b"after")


def test_bytes_of_a_job_are_never_taken_for_a_header(path: Path, tmp_path: Path) -> None:
    """A job may print a journal, its own too."""
    inner = tmp_path / "inner"
    write(inner, [(STDERR, b"forged " * 1000)] * 60)
    printed = inner.read_bytes() * 3
    write(path, [(STDOUT, printed)])
    for start in (0, 1, len(printed) // 2, len(printed) - 1):
        assert read_all(path, start) == (printed[start:], b"")


def test_starting_near_the_end_of_a_large_journal_reads_little_of_it(path: Path) -> None:
    writer = JournalWriter(str(path))
    line = b"x" * 4000
    for _ in range(10_000):
        writer.append(STDOUT, line)
    writer.close()
    total = len(line) * 10_000
    before = _bytes_read()
    reader = JournalReader(path)
    pieces = reader.read(total - 10)
    reader.close()
    assert joined(pieces) == (b"x" * 10, b"")
    assert _bytes_read() - before < 20 * BLOCK_BYTES


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))


def test_digests_are_of_the_whole_streams(path: Path) -> None:
    pieces: Writes = [(number % 2, os.urandom(70_000)) for number in range(30)]
    write(path, pieces)
    reader = JournalReader(path)
    stdout, stderr = reader.digests()
    reader.close()
    assert (stdout, stderr) == tuple(blake3(data).digest() for data in both(pieces))


def test_a_full_disk_leaves_whole_frames_and_says_so(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = JournalWriter(str(path))
    writer.append(STDOUT, b"a" * 1000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            writer.append(STDOUT, b"b" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == HEADER_BYTES + 1000
    writer.append(STDOUT, b"c")
    writer.close()
    assert read_all(path) == (b"a" * 1000 + b"c", b"")
