"""The root key in a file: opened by its passphrase alone, and enough to be the root elsewhere."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_mesh.faults import Damaged, Forbidden, Invalid, Missing, Refused
from dstack_mesh.home import Home
from dstack_mesh.trust.authority import Authority
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.recovery import restore, write_recovery
from support.meshes import Mesh

PASSPHRASE = "correct horse battery"
NOW = datetime.now(UTC)


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.make(tmp_path / "root")


def test_another_home_becomes_the_root(tmp_path: Path, mesh: Mesh) -> None:
    file, home = tmp_path / "file", Home(tmp_path / "new")
    write_recovery(mesh.root, file, PASSPHRASE)
    assert file.stat().st_mode & 0o777 == 0o600
    restored = restore(home, file, PASSPHRASE, NOW)
    assert (restored.mesh_id, restored.role) == (mesh.membership.mesh_id, Role.ROOT)
    assert restored.discovery_key == mesh.membership.discovery_key
    assert restored.peer_id != mesh.membership.peer_id
    assert Authority(home).root_pem == Authority(mesh.root).root_pem


def test_nothing_of_the_mesh_can_be_read_in_the_file(tmp_path: Path, mesh: Mesh) -> None:
    file = tmp_path / "file"
    write_recovery(mesh.root, file, PASSPHRASE)
    content = file.read_bytes()
    assert b"PRIVATE KEY" not in content and b"lab" not in content
    assert mesh.membership.discovery_key not in content


def test_a_wrong_passphrase_or_a_flipped_bit_opens_nothing(tmp_path: Path, mesh: Mesh) -> None:
    file, home = tmp_path / "file", Home(tmp_path / "new")
    write_recovery(mesh.root, file, PASSPHRASE)
    with pytest.raises(Forbidden):
        restore(home, file, PASSPHRASE + "!", NOW)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(Forbidden):
        restore(home, file, PASSPHRASE, NOW)
    file.write_bytes(b"something else")
    with pytest.raises(Damaged):
        restore(home, file, PASSPHRASE, NOW)
    with pytest.raises(Missing):
        restore(home, tmp_path / "nothing", PASSPHRASE, NOW)
    assert Membership.load(home) is None


def test_what_makes_no_sense_is_refused(tmp_path: Path, mesh: Mesh) -> None:
    member, other = mesh.admit(tmp_path / "member"), Mesh.make(tmp_path / "other")
    with pytest.raises(Refused) as refused:
        write_recovery(member, tmp_path / "file", PASSPHRASE)
    assert refused.value.code == "cannot-invite"
    with pytest.raises(Invalid):
        write_recovery(mesh.root, tmp_path / "file", "short")
    write_recovery(mesh.root, tmp_path / "file", PASSPHRASE)
    with pytest.raises(Refused):
        write_recovery(mesh.root, tmp_path / "file", PASSPHRASE)
    with pytest.raises(Refused) as refused:
        restore(other.root, tmp_path / "file", PASSPHRASE, NOW)
    assert refused.value.code == "already-a-member"
