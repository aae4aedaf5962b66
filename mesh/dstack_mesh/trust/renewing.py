"""What a new certificate must be to be taken in the place of the present one, an issuer's too."""

from dataclasses import replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, public_der, read_private_key
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.authority import request_of, to_pem
from dstack_mesh.trust.membership import (
    Membership,
    can_invite,
    holds_root,
    issuer_key_path,
    issuer_path,
    renewed_at,
)
from dstack_mesh.trust.path import checked_path, key_id, may_sign


@frozen
class Granted:
    """What whoever signs gives: a member's certificate with its path, and an issuer's; PEM."""

    certificate_pem: bytes
    issuer_pem: bytes = b""


@frozen
class Issuer:
    """An admin's signing key, as its home holds it.

    Attributes:
        key_id: Hash of the key, by which the roster calls it.
        not_after: Until when the root lets it sign.
        renewed_at: When the root's word for it is to be renewed.
    """

    key_id: PeerId
    not_after: datetime
    renewed_at: datetime


def accept(home: Home, membership: Membership, granted: Granted) -> Membership:
    """Takes a new certificate for this home's key, and for its issuer; durable on return.

    Raises:
        Damaged: It is not of this mesh, or not for this key.
    """
    key = Identity.load_or_make(home).private_key().public_key()
    root = root_of(membership)
    leaf, *between = checked_path(granted.certificate_pem, root)
    if key_id(leaf) != id_of_key(public_der(key)):
        raise Damaged("A new certificate is not for this home's key.")
    if granted.issuer_pem:
        signing = read_private_key(issuer_key_path(home)).public_key()
        issuer = checked_issuer(granted.issuer_pem, root, signing)
        write_durably(issuer_path(home), to_pem(issuer))
    renewed = replace(
        membership, not_before=leaf.not_valid_before_utc, not_after=leaf.not_valid_after_utc
    )
    renewed.store(home, b"".join(map(to_pem, [leaf, *between])), to_pem(root))
    return renewed


def checked_issuer(
    pem: bytes, root: x509.Certificate, key: EllipticCurvePublicKey
) -> x509.Certificate:
    """The root's word for a key that signs certificates. Raises Damaged if it is another's."""
    [issuer] = checked_path(pem, root)[:1]
    if key_id(issuer) != id_of_key(public_der(key)):
        raise Damaged("The issuer's certificate is not for this home.")
    if not may_sign(issuer):
        raise Damaged("The issuer's certificate may sign none.")
    return issuer


def root_of(membership: Membership) -> x509.Certificate:
    """The mesh's root certificate, as this home keeps it."""
    return x509.load_pem_x509_certificate(membership.root_path.read_bytes())


def issuer_of_home(home: Home) -> Issuer | None:
    """The signing key of an admin's home; None where the root key is, or no such key.

    Raises Damaged if the root's word for it cannot be read.
    """
    if holds_root(home) or not can_invite(home):
        return None
    try:
        certificate = x509.load_pem_x509_certificate(issuer_path(home).read_bytes())
    except ValueError as broken:
        raise Damaged("The issuer's certificate cannot be read.", str(broken)) from broken
    own = key_id(certificate)
    assert own is not None  # `checked_issuer` compared it
    born, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Issuer(own, last, renewed_at(own, born, last))


def issuer_request(home: Home) -> bytes:
    """A certificate request for this home's signing key, DER; empty where it has none."""
    return (
        b"" if issuer_of_home(home) is None else request_of(read_private_key(issuer_key_path(home)))
    )
