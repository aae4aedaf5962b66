"""Secrets as files: in memory, for one user, gone with the job."""

import stat
from pathlib import Path

import pytest

from dstack_agent.executor import vault


@pytest.fixture
def folder(tmp_path: Path) -> str:
    if not vault.place(str(tmp_path)):
        pytest.skip("there is no tmpfs that may be written")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("user", "mounts", "base"),
    [
        (7, {"/dev/shm", "/run", "/run/user/7"}, "/run/user/7"),
        (7, {"/dev/shm", "/run", "/run/user/8"}, ""),
        (0, {"/dev/shm", "/run", "/run/user/0"}, "/run/user/0"),
        (0, {"/dev/shm", "/run"}, vault.OF_ROOT),
        (0, {"/dev/shm"}, ""),
    ],
)
def test_vaults_are_only_where_walls_hide_them(user: int, mounts: set[str], base: str) -> None:
    assert vault.base_of(user, mounts) == base


@pytest.mark.may_skip
def test_a_vault_is_in_memory_and_its_owner_s_alone(folder: str) -> None:
    place = Path(vault.fill(folder, {"TOKEN": "a\nvalue", "É": "x"}))
    try:
        assert str(place).startswith("/run/")
        assert (place / vault.FILES / "TOKEN").read_text() == "a\nvalue"
        for path in (place, *place.rglob("*")):
            wanted = 0o700 if path.is_dir() else 0o400
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    finally:
        vault.clear(folder)
    assert not place.exists()
    vault.clear(folder)


@pytest.mark.may_skip
def test_a_vault_may_be_filled_again(folder: str) -> None:
    try:
        vault.fill(folder, {"A": "1"})
        place = vault.fill(folder, {"A": "2"})
        assert Path(place, vault.FILES, "A").read_text() == "2"
    finally:
        vault.clear(folder)


@pytest.mark.may_skip
@pytest.mark.parametrize("what", ["link", "open"])
def test_what_somebody_else_put_in_its_place_is_neither_used_nor_removed(
    folder: str, tmp_path: Path, what: str
) -> None:
    place = Path(vault.place(folder))
    trap = tmp_path / "trap"
    trap.mkdir()
    if what == "link":
        place.symlink_to(trap)
    else:
        place.mkdir()
        place.chmod(0o755)
    try:
        with pytest.raises(PermissionError):
            vault.fill(folder, {"A": "1"})
        vault.clear(folder)
        assert not any(trap.iterdir())
        assert place.exists()
    finally:
        place.unlink() if what == "link" else place.rmdir()
