"""Files that are whole or absent."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dstack_mesh.durable import write_durably


def test_what_was_written_is_there_with_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"one")
    write_durably(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 & ~_umask()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError):
        write_durably(tmp_path / "file", b"two")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 10_000 for number in range(8)]
    write_durably(path, contents[0])
    with ThreadPoolExecutor(8) as threads:
        writes = [threads.submit(write_durably, path, content) for content in contents * 5]
        while not all(write.done() for write in writes):
            assert path.read_bytes() in contents
        for write in writes:
            write.result()


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before
