"""The secret by which the owner is known on her socket: made once, private, and told nowhere."""

import stat
from pathlib import Path

import pytest

from dstack_mesh.wire.ownership import secret_of
from dstack_mesh.wire.server import LocalListener, listen_local, make_server


def listened(socket: Path) -> LocalListener:
    return listen_local(make_server(), socket)


async def test_it_outlives_the_agent_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "agent.sock"
    assert secret_of(socket) == ""
    listened(socket).close()
    made = secret_of(socket)
    listener = listened(socket)
    listener.close()
    assert len(made) == 64
    assert secret_of(socket) == made
    assert stat.S_IMODE((tmp_path / "run" / "owner").stat().st_mode) == 0o600
    assert made not in repr(listener)


@pytest.mark.parametrize("held", ["", "short", "A" * 64, "0" * 64 + "\n", "0" * 65])
async def test_one_that_is_damaged_is_made_anew(held: str, tmp_path: Path) -> None:
    (tmp_path / "owner").write_text(held)
    assert secret_of(tmp_path / "agent.sock") == ""
    listened(tmp_path / "agent.sock").close()
    assert secret_of(tmp_path / "agent.sock") not in ("", held)


async def test_homes_have_secrets_of_their_own(tmp_path: Path) -> None:
    sockets = [tmp_path / name / "agent.sock" for name in ("one", "other")]
    for socket in sockets:
        listened(socket).close()
    assert len(set(map(secret_of, sockets))) == 2
