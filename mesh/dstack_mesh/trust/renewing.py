"""What a new certificate must be to be taken in the place of the present one."""

from dataclasses import replace

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from dstack_mesh.faults import Damaged
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, public_der
from dstack_mesh.trust.authority import to_pem
from dstack_mesh.trust.membership import Membership


def accept(home: Home, membership: Membership, chain_pem: bytes) -> Membership:
    """Takes a new certificate for this home's key; durable on return.

    Raises:
        Damaged: It is not of this mesh, or not for this key.
    """
    key = Identity.load_or_make(home).private_key().public_key()
    root = x509.load_pem_x509_certificate(membership.root_path.read_bytes())
    try:
        leaf, *between = x509.load_pem_x509_certificates(chain_pem)
        for child, parent in zip([leaf, *between], [*between, root], strict=True):
            child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature) as broken:
        raise Damaged("A new certificate is not of this mesh.", str(broken)) from broken
    of_leaf = leaf.public_key()
    if not isinstance(of_leaf, EllipticCurvePublicKey) or public_der(of_leaf) != public_der(key):
        raise Damaged("A new certificate is not for this home's key.")
    renewed = replace(
        membership, not_before=leaf.not_valid_before_utc, not_after=leaf.not_valid_after_utc
    )
    renewed.store(home, b"".join(map(to_pem, [leaf, *between])), to_pem(root))
    return renewed
