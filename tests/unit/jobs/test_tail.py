"""Pieces of a log on their way to a reader: the same bytes in the same order, in fewer messages."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.jobs.tail import CAREFUL, TRUSTED, TRUSTED_BYTES, Piece, Tail, join
from dstack_agent.logs.journal import Frame, Hole
from dstack_agent.logs.writer import JournalWriter
from dstack_scheduler.job import LogStream

OUT, ERR = LogStream.STDOUT, LogStream.STDERR


def pieces_of(steps: list[tuple[LogStream, int, bool]]) -> list[Piece]:
    at = {OUT: 0, ERR: 0}
    found: list[Piece] = []
    for stream, size, hole in steps:
        start, at[stream] = at[stream], at[stream] + size
        if hole:
            found.append(Hole(stream, start, start + size))
        else:
            found.append(Frame(stream, start, bytes([start % 251]) * size, 0))
    return found


STEPS = st.lists(
    st.tuples(st.sampled_from([OUT, ERR]), st.integers(1, 70_000), st.booleans()), max_size=20
)


def spread(pieces: list[Piece]) -> list[tuple[LogStream, object]]:
    """Byte runs of one stream side by side, whatever pieces they came in."""
    runs: list[tuple[LogStream, object]] = []
    for piece in pieces:
        last = runs[-1] if runs else None
        if isinstance(piece, Hole):
            runs.append((piece.stream, (piece.offset, piece.end)))
        elif last is not None and last[0] is piece.stream and isinstance(last[1], bytes):
            runs[-1] = (piece.stream, last[1] + piece.data)
        else:
            runs.append((piece.stream, piece.data))
    return runs


@given(STEPS, st.sampled_from([TRUSTED.piece_bytes, CAREFUL.piece_bytes, 1_000]))
def test_joining_and_cutting_change_neither_bytes_nor_order(
    steps: list[tuple[LogStream, int, bool]], most: int
) -> None:
    pieces = pieces_of(steps)
    joined = list(join(pieces, most))
    assert spread(joined) == spread(pieces)
    assert all(len(each.data) <= most for each in joined if isinstance(each, Frame))


def test_neighbours_of_one_stream_travel_together() -> None:
    pieces = pieces_of([(OUT, 100, False)] * 5 + [(ERR, 10, False)] + [(OUT, 100, False)] * 5)
    assert [len(each.data) for each in join(pieces, 1_000) if isinstance(each, Frame)] == [
        500,
        10,
        500,
    ]


def append(writer: JournalWriter, data: bytes) -> None:
    writer.append(0, data)


async def test_a_line_goes_out_at_once_and_its_beginning_waits(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path / "journal"))
    tail = Tail(tmp_path / "journal", 0, 0)
    assert await tail.read() == []
    append(writer, b"beg")
    assert tail.due(await tail.read()) == []
    assert tail.holding
    append(writer, b"inning\n")
    (piece,) = tail.due(await tail.read())
    assert isinstance(piece, Frame)
    assert (piece.offset, piece.data) == (0, b"beginning\n")
    assert not tail.holding
    tail.close()
    writer.close()


async def test_a_reader_that_comes_back_gets_what_follows(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path / "journal"))
    append(writer, b"0123456789\n")
    tail = Tail(tmp_path / "journal", 4, 0)
    (piece,) = tail.due(await tail.read())
    assert isinstance(piece, Frame)
    assert (piece.offset, piece.data) == (4, b"456789\n")
    tail.close()
    writer.close()


async def test_who_acknowledges_gets_more_at_a_time_until_it_stops_doing_so(tmp_path: Path) -> None:
    writer = JournalWriter(str(tmp_path / "journal"))
    tail, most = Tail(tmp_path / "journal", 0, 0), 0
    append(writer, b"x" * (TRUSTED_BYTES + (1 << 20)))

    async def longest() -> int:
        nonlocal most
        found = await tail.read()
        most = max(piece.end for piece in found)
        return max(len(each.data) for each in tail.due(found) if isinstance(each, Frame))

    assert await longest() == CAREFUL.piece_bytes
    tail.acknowledged(most, 0)
    assert await longest() == TRUSTED.piece_bytes
    while tail.portion is TRUSTED:
        await longest()
    assert most >= TRUSTED_BYTES
    assert await longest() == CAREFUL.piece_bytes
    tail.acknowledged(most, 0)
    assert await longest() == TRUSTED.piece_bytes
    tail.acknowledged(most + (1 << 30), 0)
    assert tail.portion is CAREFUL, "it has more than was sent, or says so"
    tail.close()
    writer.close()
