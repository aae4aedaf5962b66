"""What a new certificate must be to be taken in the place of the present one."""

from dataclasses import replace

from cryptography import x509

from dstack_mesh.faults import Damaged
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, public_der
from dstack_mesh.trust.authority import to_pem
from dstack_mesh.trust.membership import Membership
from dstack_mesh.trust.path import checked_path, key_id


def accept(home: Home, membership: Membership, chain_pem: bytes) -> Membership:
    """Takes a new certificate for this home's key; durable on return.

    Raises:
        Damaged: It is not of this mesh, or not for this key.
    """
    key = Identity.load_or_make(home).private_key().public_key()
    root = x509.load_pem_x509_certificate(membership.root_path.read_bytes())
    leaf, *between = checked_path(chain_pem, root)
    if key_id(leaf) != id_of_key(public_der(key)):
        raise Damaged("A new certificate is not for this home's key.")
    renewed = replace(
        membership, not_before=leaf.not_valid_before_utc, not_after=leaf.not_valid_after_utc
    )
    renewed.store(home, b"".join(map(to_pem, [leaf, *between])), to_pem(root))
    return renewed
