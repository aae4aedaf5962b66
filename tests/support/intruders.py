"""Certificates that must not open a mesh: each with the key that belongs to it, as PEM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dstack_mesh.identity import id_of_key, private_pem, public_der, read_private_key
from dstack_mesh.trust.authority import sign_leaf, to_pem
from dstack_mesh.trust.membership import Role, root_key_path
from support.meshes import Mesh, member

Shown = tuple[bytes, bytes]
"""A private key and a chain."""


def another_mesh(mesh: Mesh, folder: Path) -> Shown:
    """A member of another mesh."""
    known = member(Mesh.make(folder / "other").admit(folder / "stranger", role=Role.ROOT))
    return known.key_path.read_bytes(), known.certificate_path.read_bytes()


def dated(born: timedelta) -> Callable[[Mesh, Path], Shown]:
    """A member whose certificate held for a day from some moment."""

    def make(mesh: Mesh, folder: Path) -> Shown:
        home = mesh.admit(folder / "dated", datetime.now(UTC) + born, role=Role.ROOT)
        known = member(home)
        return known.key_path.read_bytes(), known.certificate_path.read_bytes()

    return make


def signed_by_a_member(mesh: Mesh, folder: Path) -> Shown:
    """Signed by a member, which is no authority."""
    known = member(mesh.admit(folder / "signer", role=Role.ROOT))
    leaf = x509.load_pem_x509_certificate(known.certificate_path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    signer = read_private_key(known.key_path)
    forged = sign_leaf(signer, leaf, key.public_key(), datetime.now(UTC), role=Role.ROOT)
    return private_pem(key), to_pem(forged) + to_pem(leaf)


def self_signed(mesh: Mesh, folder: Path) -> Shown:
    """With all the names that the mesh's root has, and its issuer's."""
    root = x509.load_pem_x509_certificate(mesh.membership.root_path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    forged = sign_leaf(key, root, key.public_key(), datetime.now(UTC), role=Role.ROOT)
    return private_pem(key), to_pem(forged)


def of_usage(
    *usages: x509.ObjectIdentifier,
    authority: bool = False,
    named: bool = True,
    named_for: str = "",
) -> Callable[[Mesh, Path], Shown]:
    """Signed by the mesh's root, for a use that no member has.

    Args:
        usages: What it says that it is for; none: it does not say.
        authority: Whether it says that it may sign others.
        named: Whether it carries a member's names.
        named_for: Whose; its own key's by default.
    """

    def make(mesh: Mesh, folder: Path) -> Shown:
        key = ec.generate_private_key(ec.SECP256R1())
        return private_pem(key), to_pem(signed(mesh, key, usages, authority, named, named_for))

    return make


def the_root_itself(mesh: Mesh, folder: Path) -> Shown:
    """The authority shows itself instead of a member."""
    return root_key_path(mesh.root).read_bytes(), mesh.membership.root_path.read_bytes()


def signed(
    mesh: Mesh,
    key: ec.EllipticCurvePrivateKey,
    usages: Sequence[x509.ObjectIdentifier],
    authority: bool,
    named: bool,
    named_for: str,
) -> x509.Certificate:
    """A certificate of the mesh's root."""
    root = x509.load_pem_x509_certificate(mesh.membership.root_path.read_bytes())
    now, peer_id = datetime.now(UTC), named_for or id_of_key(public_der(key.public_key()))
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1))
    builder = builder.not_valid_after(now + timedelta(days=1)).issuer_name(root.subject)
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
    builder = builder.public_key(key.public_key())
    builder = builder.add_extension(
        x509.BasicConstraints(authority, 0 if authority else None), critical=True
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if named:
        mesh_id = mesh.membership.mesh_id
        uris = (f"mesh://{mesh_id}/n/{peer_id}", f"mesh://{mesh_id}/r/{Role.ROOT.right}")
        names = [x509.DNSName("mesh"), *map(x509.UniformResourceIdentifier, uris)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(read_private_key(root_key_path(mesh.root)), hashes.SHA256())


INTRUDERS: dict[str, Callable[[Mesh, Path], Shown]] = {
    "of another mesh": another_mesh,
    "expired": dated(timedelta(days=-9)),
    "not yet valid": dated(timedelta(days=9)),
    "signed by a member": signed_by_a_member,
    "self-signed": self_signed,
    "for servers only": of_usage(ExtendedKeyUsageOID.SERVER_AUTH),
    "for signing code": of_usage(ExtendedKeyUsageOID.CODE_SIGNING),
    "the root's own": the_root_itself,
}
"""Who shows what. TLS lets none of them in."""

MISTAKES: dict[str, Callable[[Mesh, Path], Shown]] = {
    "for no use that it says": of_usage(),
    "an authority's": of_usage(ExtendedKeyUsageOID.CLIENT_AUTH, authority=True),
    "without names": of_usage(ExtendedKeyUsageOID.CLIENT_AUTH, named=False),
    "with another's name": of_usage(ExtendedKeyUsageOID.CLIENT_AUTH, named_for="a" * 32),
}
"""What the mesh's root should never have signed. TLS lets them in, and the guard does not."""
