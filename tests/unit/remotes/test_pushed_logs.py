"""A log that was pushed says what was said, in the order in which it was said."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_cli.remotes.logs import EPOCH, ROW, LogFiles, read_log, save_log
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Damaged
from dstack_mesh.ids import RunId
from dstack_scheduler.job import Gap, JobKey, LogFrame, LogStream, LogTail
from dstack_scheduler.pushed import PushedLog

KEY = JobKey(RunId("01JDQ0000000000000000000AB"), 0)
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)

Written = tuple[LogStream, bytes, bool]


def events_of(written: list[Written]) -> list[LogFrame | Gap]:
    """Frames and losses one after the other on each stream."""
    ends = dict.fromkeys(LogStream, 0)
    events: list[LogFrame | Gap] = []
    for number, (stream, data, lost) in enumerate(written):
        begin = ends[stream]
        ends[stream] += len(data)
        at = AT + timedelta(milliseconds=number)
        if lost:
            events.append(Gap(KEY, stream, begin, ends[stream], "lost before it was pushed"))
        else:
            events.append(LogFrame(KEY, stream, begin, data, at))
    return events


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(LogStream), st.binary(min_size=1, max_size=300), st.booleans()),
        max_size=30,
    )
)
async def test_what_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, written: list[Written]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    store, events = ChunkStore(folder / "chunks"), events_of(written)

    async def read(files: LogFiles) -> None:
        for event in events:
            await files.saw(event)

    log = await save_log(store, KEY, folder, read)
    assert list(read_log(store, log)) == events
    store.close()


async def test_of_a_log_whose_machine_is_gone_the_end_is_kept(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "chunks")
    tail = LogTail(KEY, 1000, b"the end\n", 5, b"whole", AT)
    log = await save_log(store, KEY, tmp_path, lambda files: files.saw_tail(tail))
    lost, out, err = list(read_log(store, log))
    assert isinstance(lost, Gap) and (lost.from_bytes, lost.to_bytes) == (0, 992)
    assert isinstance(out, LogFrame) and (out.offset_bytes, out.data) == (992, b"the end\n")
    assert isinstance(err, LogFrame) and (err.offset_bytes, err.data) == (0, b"whole")
    store.close()


async def test_a_frame_from_before_there_were_clocks_is_kept(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "chunks")
    early = LogFrame(KEY, LogStream.STDOUT, 0, b"x", EPOCH - timedelta(days=9))
    log = await save_log(store, KEY, tmp_path, lambda files: files.saw(early))
    assert list(read_log(store, log)) == [replace(early, at=EPOCH)]
    store.close()


def test_files_that_are_no_log_are_refused(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "chunks")
    late = ROW.pack(0, 0, 0, 2**64 - 1)
    for content in (b"short", b"\x09" + bytes(20), late):
        folder = tmp_path / content.hex()
        folder.mkdir()
        (folder / "frames").write_bytes(content)
        saved = save_tree(store, folder)
        with pytest.raises(Damaged):
            list(read_log(store, PushedLog(KEY, saved.digest, 5)))
    store.close()
