"""The two key pairs of a job's SSH server, made from the job's token.

Whoever has the token makes both: the agent the server's own and the one it lets in, a person's
command the one that it logs in with and the one that it expects to meet. So no key is sent, asked
about or kept in a record, and nobody in between can stand for either side.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from dstack_mesh.frozen import frozen

_PURPOSE = b"dstack-mesh/1/ssh/"


@frozen
class KeyPair:
    """As OpenSSH writes them: `private` is a whole file, `public` a line without its end."""

    private: str
    public: str


def server_keys(token: str) -> KeyPair:
    """Of the server: what a known_hosts file says of it."""
    return _pair(token, b"server")


def person_keys(token: str) -> KeyPair:
    """Of whoever submitted the job: the only key that the server lets in."""
    return _pair(token, b"person")


def _pair(token: str, whose: bytes) -> KeyPair:
    """Raises ValueError for an empty token, from which anybody could make the same."""
    if not token:
        raise ValueError("there is no token")
    seed = HKDF(SHA256(), 32, salt=None, info=_PURPOSE + whose).derive(token.encode())
    key = Ed25519PrivateKey.from_private_bytes(seed)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return KeyPair(private.decode(), public.decode())
