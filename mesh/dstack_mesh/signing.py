"""Statements that anybody can check and nobody can change: bytes, who signed them, and for what.

What is signed are the exact bytes that travel and are kept, for no encoding is trusted to come out
the same twice. The signer is known by the hash of its key, which is its peer id: whoever relays a
statement can neither forge nor reattribute it. A purpose is part of what is signed, so a signature
made for one kind of statement is worthless for another.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from dstack_mesh.faults import Damaged
from dstack_mesh.frozen import frozen
from dstack_mesh.identity import Identity, id_of_key, public_der
from dstack_mesh.ids import PeerId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

LONGEST_KEY_BYTES = 128
"""A P-256 key in DER has 91 bytes."""

LONGEST_SIGNATURE_BYTES = 80
"""A P-256 signature in DER has at most 72 bytes."""


@frozen
class Signed:
    """Bytes with a signature.

    Attributes:
        body: What is said.
        key: Public key of the signer, SubjectPublicKeyInfo in DER.
        signature: ECDSA P-256 with SHA-256, DER, over the purpose and the body.
    """

    body: bytes
    key: bytes
    signature: bytes

    @property
    def signer(self) -> PeerId:
        """Who claims to have signed; believe it only after `check`."""
        return PeerId(id_of_key(self.key))


class Signer:
    """Signs with one private key, read once.

    Args:
        key: A P-256 key.
    """

    def __init__(self, key: "EllipticCurvePrivateKey") -> None:
        self._key = key
        self.public_key = public_der(key.public_key())

    @classmethod
    def of(cls, identity: Identity) -> "Signer":
        """Signs as a peer. Raises Damaged if its key cannot be read."""
        return cls(identity.private_key())

    @property
    def peer_id(self) -> PeerId:
        return PeerId(id_of_key(self.public_key))

    def sign(self, purpose: str, body: bytes) -> Signed:
        """The statement. `purpose` is a word of our own, as "record"."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        signature = self._key.sign(_said(purpose, body), ECDSA(SHA256()))
        return Signed(body, self.public_key, signature)


def check(purpose: str, signed: Signed) -> PeerId:
    """Who signed it, for this purpose. Raises Damaged if nobody did; 0.1 ms."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        _key_of(signed.key).verify(signed.signature, _said(purpose, signed.body), ECDSA(SHA256()))
    except InvalidSignature as wrong:
        raise Damaged(
            "A signed statement was changed, or was signed for something else.",
            f"It claims to be a {purpose} of {signed.signer}.",
            code="bad-signature",
        ) from wrong
    return signed.signer


def _said(purpose: str, body: bytes) -> bytes:
    return b"dstack-mesh/1/" + purpose.encode() + b"\0" + body


@lru_cache(maxsize=1024)
def _key_of(der: bytes) -> "EllipticCurvePublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(der) if len(der) <= LONGEST_KEY_BYTES else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise Damaged("A signed statement names no P-256 key.", code="bad-signature")
    if public_der(key) != der:  # one key would have several ids
        raise Damaged("A signed statement writes its key in an unusual form.", code="bad-signature")
    return key
