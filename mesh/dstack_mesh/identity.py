"""Who this peer is: a P-256 key that never leaves its home, and an id that is the key's hash.

Reading the id needs no cryptography: it stands in a file of its own beside the key. Ed25519 would
be smaller, but gRPC's TLS refuses such certificates.
"""

import base64
import hashlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.switching import DRAFT, finish_switch

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

ID_CHARACTERS = 32
"""Length of a peer id: 20 bytes in base32."""


def id_of_key(public_der: bytes) -> str:
    """The id of a key given in DER (SubjectPublicKeyInfo): 20 bytes of its hash in base32."""
    return base64.b32encode(hashlib.sha256(public_der).digest()[:20]).decode().lower()


def is_id(text: str) -> bool:
    """Whether this could be the id of a peer or of a mesh."""
    return len(text) == ID_CHARACTERS and set(text) <= set("abcdefghijklmnopqrstuvwxyz234567")


def public_der(key: "EllipticCurvePublicKey") -> bytes:
    """The key's SubjectPublicKeyInfo in DER: what an id is the hash of."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: "EllipticCurvePrivateKey") -> bytes:
    """The key as a PEM file, not encrypted: the file's mode guards it."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_private_key(path: Path) -> "EllipticCurvePrivateKey":
    """The P-256 key in a PEM file. Raises Damaged if it is not one."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as broken:
        raise Damaged("A private key cannot be read.", f"{path}: {broken}") from broken
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise Damaged("A private key is of the wrong kind.", f"{path} is not a P-256 key.")
    return key


@frozen
class Identity:
    """A peer's id and where its private key is."""

    peer_id: PeerId
    key_path: Path

    @classmethod
    def load_or_make(cls, home: Home) -> "Identity":
        """The identity of this home; makes the key the first time. Two callers at once agree."""
        finish_switch(home)
        key_path, id_path = home.keys / "key.pem", home.keys / "peer-id"
        if id_path.exists() and key_path.exists():
            stored = id_path.read_text().strip()
            if is_id(stored):
                return cls(PeerId(stored), key_path)
        home.prepare()
        if not key_path.exists():
            _make_key(key_path)
        peer_id = PeerId(id_of_key(public_der(read_private_key(key_path).public_key())))
        write_durably(id_path, f"{peer_id}\n".encode())
        return cls(peer_id, key_path)

    @classmethod
    def known(cls, home: Home) -> PeerId:
        """The id of this home; empty if it has no key yet."""
        has_key = (home.keys / "key.pem").exists()
        return cls.load_or_make(home).peer_id if has_key else PeerId("")

    @classmethod
    def forget(cls, home: Home) -> None:
        """Deletes the key: the next identity of this home is another peer."""
        for name in ("peer-id", "key.pem", DRAFT):
            (home.keys / name).unlink(missing_ok=True)

    def private_key(self) -> "EllipticCurvePrivateKey":
        """The key itself. Raises Damaged."""
        return read_private_key(self.key_path)


def _make_key(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    draft = path.with_name(f".key.{secrets.token_hex(4)}.pem")
    write_durably(draft, private_pem(ec.generate_private_key(ec.SECP256R1())))
    try:
        # A link fails where a rename would replace the key that another process has just made.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
