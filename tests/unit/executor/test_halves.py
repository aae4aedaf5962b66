"""What a job's next shim must hide: kept in two halves, of which neither says anything."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack_agent.executor import halves

VALUES = ["a value of sixteen", "Ünïcode\n", "x"]

TEXTS = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands for /dev/shm."""
    place = tmp_path / "memory"
    place.mkdir()
    monkeypatch.setattr(halves, "MEMORY", str(place))
    yield place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    made.mkdir()
    return made


@given(TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_kept_is_found_again(memory: Path, folder: Path, values: list[str]) -> None:
    halves.keep(str(folder), values)
    assert halves.kept(str(folder)) == values


def test_neither_half_says_anything_and_both_are_the_users_alone(
    memory: Path, folder: Path
) -> None:
    halves.keep(str(folder), VALUES)
    files = [*memory.iterdir(), *folder.iterdir()]
    assert len(files) == 2
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o400
        assert not any(value.encode() in file.read_bytes() for value in VALUES if len(value) > 1)
    other = [file.read_bytes() for file in files]
    halves.keep(str(folder), VALUES)
    assert all(file.read_bytes() != before for file, before in zip(files, other, strict=True))


def test_both_go_and_with_one_alone_nothing_is_known(memory: Path, folder: Path) -> None:
    halves.keep(str(folder), VALUES)
    (half,) = memory.iterdir()
    half.unlink()
    assert halves.kept(str(folder)) == []
    halves.keep(str(folder), VALUES)
    halves.forget(str(folder))
    halves.forget(str(folder))
    assert [*memory.iterdir(), *folder.iterdir()] == []
    assert halves.kept(str(folder)) == []


def test_a_link_in_its_place_is_not_followed(memory: Path, folder: Path, tmp_path: Path) -> None:
    halves.keep(str(folder), VALUES)
    (half,) = memory.iterdir()
    stolen = tmp_path / "stolen"
    half.rename(stolen)
    half.symlink_to(stolen)
    assert halves.kept(str(folder)) == []
    halves.keep(str(folder), VALUES)
    assert not half.is_symlink()
    assert halves.kept(str(folder)) == VALUES
