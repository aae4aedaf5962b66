"""The way from a member's certificate to the mesh's root: directly, or through one issuer."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.extensions import ExtensionNotFound

from dstack_mesh.faults import Damaged
from dstack_mesh.identity import id_of_key, public_der
from dstack_mesh.ids import PeerId

LONGEST_PATH = 2
"""Certificates below the root."""


def checked_path(chain_pem: bytes, root: x509.Certificate) -> list[x509.Certificate]:
    """The certificates in a PEM file, the member's first, if they lead to the root.

    Raises:
        Damaged: They do not, or one of them may sign none.
    """
    try:
        path = x509.load_pem_x509_certificates(chain_pem)
        for child, parent in zip(path, [*path[1:], root], strict=True):
            child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature) as broken:
        raise Damaged("The certificates do not belong together.", str(broken)) from broken
    if not 0 < len(path) <= LONGEST_PATH or not all(map(may_sign, path[1:])):
        raise Damaged("The certificates do not belong together.", "One of them may sign none.")
    return path


def may_sign(certificate: x509.Certificate) -> bool:
    """Whether others may be signed with its key."""
    try:
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except ExtensionNotFound:
        return False
    return limits.value.ca


def key_id(certificate: x509.Certificate) -> PeerId | None:
    """The id of its key; None for a key that no peer has."""
    key = certificate.public_key()
    return PeerId(id_of_key(public_der(key))) if isinstance(key, EllipticCurvePublicKey) else None


def issuer_of(leaf: x509.Certificate, shown: list[x509.Certificate]) -> PeerId | None:
    """The key that signed a certificate, if it is among those that were shown with it.

    Whoever was let in by TLS has shown all between its certificate and the root: if none of them
    signed it, the root did. What is shown beside them changes nothing, for only one key can have
    signed.
    """
    for one in shown:
        try:
            leaf.verify_directly_issued_by(one)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return key_id(one)
    return None
