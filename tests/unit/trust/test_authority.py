"""Certificates: what is in them, and what is not."""

import getpass
import socket
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from dstack_mesh.faults import Damaged, Invalid, Refused
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, is_id, public_der
from dstack_mesh.trust.authority import (
    Authority,
    create_mesh,
    make_request,
    mesh_of_root,
    read_request,
)
from dstack_mesh.trust.membership import Membership, Role, can_invite, leave, root_key_path
from support.meshes import Mesh, member

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_who_makes_a_mesh_is_its_first_member(tmp_path: Path) -> None:
    home = Home(tmp_path)
    membership = create_mesh(home, "lab", NOW)
    assert Membership.load(home) == membership
    assert membership.role is Role.ROOT
    assert is_id(membership.mesh_id)
    assert membership.mesh_id == mesh_of_root(_certificate(membership.root_path))
    assert membership.peer_id == Identity.load_or_make(home).peer_id
    assert can_invite(home)


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    membership = create_mesh(home, "lab", NOW)
    for path in (membership.key_path, root_key_path(home)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700


def test_a_leaf_names_ids_and_no_person_machine_or_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names that no key or signature has by chance, as it may have "vm".
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-machine-name")
    monkeypatch.setenv("LOGNAME", "secret-person-name")
    membership = create_mesh(Home(tmp_path), "secret-lab-name", NOW)
    leaf = _certificate(membership.certificate_path)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{membership.peer_id}.mesh", "mesh"]
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == [
        f"mesh://{membership.mesh_id}/n/{membership.peer_id}",
        f"mesh://{membership.mesh_id}/r/invite",
    ]
    for certificate in (leaf, _certificate(membership.root_path)):
        der = certificate.public_bytes(Encoding.DER)
        for told in ("secret-lab-name", socket.gethostname(), getpass.getuser()):
            assert told.encode() not in der


def test_a_leaf_is_backdated_an_hour_and_lives_ninety_days(tmp_path: Path) -> None:
    membership = create_mesh(Home(tmp_path), "lab", NOW)
    assert membership.not_before == NOW - timedelta(hours=1)
    assert membership.not_after == NOW + timedelta(days=90)


def test_a_leaf_cannot_sign(tmp_path: Path) -> None:
    leaf = _certificate(create_mesh(Home(tmp_path), "lab", NOW).certificate_path)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_second_mesh_in_one_home_is_refused(tmp_path: Path) -> None:
    create_mesh(Home(tmp_path), "lab", NOW)
    with pytest.raises(Refused) as refused:
        create_mesh(Home(tmp_path), "other", NOW)
    assert refused.value.code == "already-a-member"


@pytest.mark.parametrize("name", ["", "   ", "x" * 65, "two\nlines", "\x1b[31mred"])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        create_mesh(Home(tmp_path), name, NOW)


def test_only_the_home_with_the_root_key_can_invite(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    other = mesh.admit(tmp_path / "other")
    assert not can_invite(other)
    with pytest.raises(Refused) as refused:
        Authority(other)
    assert refused.value.code == "cannot-invite"


def test_a_request_of_another_key_is_refused(tmp_path: Path) -> None:
    one, two = (Identity.load_or_make(Home(tmp_path / name)) for name in "ab")
    key = public_der(one.private_key().public_key())
    read_request(make_request(one), key)
    with pytest.raises(Invalid):
        read_request(make_request(two), key)
    with pytest.raises(Invalid):
        read_request(b"nonsense", key)


def test_a_request_that_was_changed_is_refused(tmp_path: Path) -> None:
    identity = Identity.load_or_make(Home(tmp_path))
    request = bytearray(make_request(identity))
    request[-1] ^= 1
    with pytest.raises(Invalid):
        read_request(bytes(request), public_der(identity.private_key().public_key()))


def test_a_certificate_outside_its_time_says_that_the_clock_may_be_off(tmp_path: Path) -> None:
    membership = create_mesh(Home(tmp_path), "lab", NOW)
    membership.check_valid(NOW)
    with pytest.raises(Refused) as early:
        membership.check_valid(NOW - timedelta(hours=2))
    assert early.value.code == "certificate-not-yet-valid"
    assert "clock" in early.value.hint
    with pytest.raises(Refused) as late:
        membership.check_valid(NOW + timedelta(days=91))
    assert late.value.code == "certificate-expired"
    assert "clock" in late.value.hint


def test_a_home_without_mesh_says_how_to_join(tmp_path: Path) -> None:
    assert Membership.load(Home(tmp_path)) is None
    with pytest.raises(Refused) as refused:
        Membership.require(Home(tmp_path))
    assert "dstack mesh join" in refused.value.hint


def test_a_broken_file_is_told_and_not_taken_for_no_mesh(tmp_path: Path) -> None:
    home = Home(tmp_path)
    create_mesh(home, "lab", NOW)
    (home.keys / "membership.json").write_text("{")
    with pytest.raises(Damaged):
        Membership.load(home)


def test_leaving_keeps_the_key_and_nothing_of_the_mesh(tmp_path: Path) -> None:
    home = Home(tmp_path)
    before = create_mesh(home, "lab", NOW).peer_id
    leave(home)
    assert Membership.load(home) is None
    assert not can_invite(home)
    assert create_mesh(home, "other", NOW).peer_id == before


def test_a_leaf_signed_by_a_leaf_is_not_of_the_mesh(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    leaf = _certificate(member(mesh.admit(tmp_path / "peer")).certificate_path)
    with pytest.raises(ValueError, match="Issuer"):
        leaf.verify_directly_issued_by(leaf)
    leaf.verify_directly_issued_by(_certificate(mesh.membership.root_path))
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
