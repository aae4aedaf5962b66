"""A desk, and git without anybody's settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from support.desk import Desk


@pytest.fixture(autouse=True)
def plain_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Git without anybody's settings."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ana")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ana@example.org")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    home = Home(tmp_path / "home")
    home.prepare()
    store = ChunkStore(home.chunks)
    yield Desk(tmp_path, home, store)
    store.close()
