"""What tests of a mesh ask for."""

from pathlib import Path

import pytest

from support.flooded import flooded as flooded
from support.flooded import process as process
from support.gossiping import quiet as quiet
from support.gossiping import writer as writer
from support.meshes import Mesh


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.make(tmp_path / "root")


@pytest.fixture
def no_multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is found who was not named."""
    monkeypatch.setenv("DSTACK_MDNS", "0")
