"""Peers that were reached before."""

import json
import subprocess
from pathlib import Path

import pytest

from dstack_mesh.discovery.saved import MOST_SAVED, SavedPeer, load_saved, remember, save
from dstack_mesh.ids import Address, MeshId, PeerId

MESH = MeshId("m" * 32)


def peer(number: int, address: str = "10.0.0.1:1") -> SavedPeer:
    letters = "abcdefghijklmnopqrstuvwxyz"
    name = letters[number // 26] + letters[number % 26]
    return SavedPeer(PeerId(name + "a" * 30), f"ws-{number}", (Address(address),))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state" / "peers.json"
    save(path, MESH, [peer(1), peer(2)])
    assert load_saved(path, MESH) == (peer(1), peer(2))
    assert path.stat().st_mode & 0o077 == 0
    assert [one.name for one in path.parent.iterdir()] == ["peers.json"]


def test_peers_of_another_mesh_are_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    save(path, MESH, [peer(1)])
    assert load_saved(path, MeshId("x" * 32)) == ()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"version": 2}', "\x00\x01"])
def test_a_file_that_cannot_be_read_holds_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(content)
    assert load_saved(path, MESH) == ()


def test_a_peer_without_an_id_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    save(path, MESH, [peer(1)])
    content = json.loads(path.read_text())
    content["peers"][0]["peer_id"] = "../../etc"
    path.write_text(json.dumps(content))
    assert load_saved(path, MESH) == ()


def test_new_peers_come_first_and_the_oldest_fall_off(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    save(path, MESH, [peer(number) for number in range(MOST_SAVED)])
    remember(path, MESH, [peer(300), peer(3, "10.0.0.9:9")])
    found = load_saved(path, MESH)
    assert len(found) == MOST_SAVED
    assert found[:3] == (peer(300), peer(3, "10.0.0.9:9"), peer(0))
    assert peer(3) not in found


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    remember(path, MESH, [peer(1), peer(2)])
    before = path.stat().st_mtime_ns, path.stat().st_ino
    remember(path, MESH, [peer(2)])
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_a_full_disk_keeps_what_was_saved_and_no_draft(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs root to mount a small disk")
    try:
        path = folder / "peers.json"
        save(path, MESH, [peer(1)])
        with (folder / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        for _ in range(3):
            with pytest.raises(OSError):
                remember(path, MESH, [peer(2)])
        assert sorted(one.name for one in folder.iterdir()) == ["filler", "peers.json"]
        assert load_saved(path, MESH) == (peer(1),)
    finally:
        subprocess.run(("umount", str(folder)), check=True)
