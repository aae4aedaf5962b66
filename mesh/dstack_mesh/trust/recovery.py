"""A mesh's root key in a file that only a passphrase opens, to be kept where no machine is.

With it another home becomes the root when the machine that made the mesh is lost. What the roster
says is not in it: agents know that.
"""

import json
import os
import secrets
from datetime import datetime
from hashlib import scrypt
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged, Forbidden, Invalid, Missing, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.trust.authority import (
    already_a_member,
    mesh_of_root,
    sign_leaf,
    to_pem,
)
from dstack_mesh.trust.membership import Membership, Role, holds_root, root_key_path

SHORTEST_PASSPHRASE = 10
HEADER = b"dstack-mesh recovery 1\n"
SALT_BYTES, NONCE_BYTES = 16, 12


@frozen
class Kept:
    """What a recovery file holds."""

    mesh_name: str
    discovery_key: bytes
    root_pem: bytes
    key_pem: bytes


def write_recovery(home: Home, path: Path, passphrase: str) -> Membership:
    """Writes the root key of this home's mesh into a new file, readable by its owner alone.

    Raises:
        Refused: The root key is not here, or there is such a file.
        Invalid: The passphrase is short.
    """
    membership = Membership.require(home)
    if not holds_root(home):
        raise Refused(
            "This home has nothing to recover from.",
            f"The mesh's root key is not in {home.keys}.",
            "Do it on the machine where `dstack mesh create` was run.",
            code="cannot-invite",
        )
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise Invalid(
            "The passphrase is too short.",
            f"It has {len(passphrase)} characters; who finds the file may try for years.",
            f"Take {SHORTEST_PASSPHRASE} characters or more.",
            code="short-passphrase",
        )
    if path.exists():
        raise Refused("There is such a file.", str(path), "Choose another name.", "file-exists")
    kept = Kept(
        membership.mesh_name,
        membership.discovery_key,
        membership.root_path.read_bytes(),
        root_key_path(home).read_bytes(),
    )
    write_durably(path, _sealed(kept, passphrase))
    return membership


def restore(home: Home, path: Path, passphrase: str, now: datetime) -> Membership:
    """Makes this home the root of the mesh whose key is in the file.

    Raises:
        Missing: There is no such file.
        Forbidden: The passphrase is another one, or the file was changed.
        Refused: This home is a member of another mesh.
    """
    try:
        kept = _opened(path.read_bytes(), passphrase)
    except FileNotFoundError as absent:
        raise Missing("There is no such file.", str(path)) from absent
    root = x509.load_pem_x509_certificate(kept.root_pem)
    present = Membership.load(home)
    if present is not None and present.mesh_id != mesh_of_root(root):
        raise already_a_member(present)
    identity, key = Identity.load_or_make(home), load_pem_private_key(kept.key_pem, None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise Damaged("The key in the file is of the wrong kind.", str(path))
    leaf = sign_leaf(key, root, identity.private_key().public_key(), now, role=Role.ROOT)
    membership = Membership(
        mesh_id=mesh_of_root(root),
        mesh_name=kept.mesh_name,
        role=Role.ROOT,
        peer_id=identity.peer_id,
        discovery_key=kept.discovery_key,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        folder=home.keys,
    )
    write_durably(root_key_path(home), kept.key_pem)
    membership.store(home, to_pem(leaf), kept.root_pem)
    return membership


def _sealed(kept: Kept, passphrase: str) -> bytes:
    salt, nonce = secrets.token_bytes(SALT_BYTES), os.urandom(NONCE_BYTES)
    fields = {
        "mesh_name": kept.mesh_name,
        "discovery_key": kept.discovery_key.hex(),
        "root": kept.root_pem.decode(),
        "key": kept.key_pem.decode(),
    }
    said = json.dumps(fields).encode()
    return HEADER + salt + nonce + AESGCM(_key(passphrase, salt)).encrypt(nonce, said, HEADER)


def _opened(content: bytes, passphrase: str) -> Kept:
    body = content.removeprefix(HEADER)
    if body == content or len(body) < SALT_BYTES + NONCE_BYTES:
        raise Damaged("This is no recovery file of a mesh.", "It does not begin as one.")
    salt, nonce = body[:SALT_BYTES], body[SALT_BYTES : SALT_BYTES + NONCE_BYTES]
    try:
        said = AESGCM(_key(passphrase, salt)).decrypt(
            nonce, body[SALT_BYTES + NONCE_BYTES :], HEADER
        )
    except InvalidTag as wrong:
        raise Forbidden(
            "The file does not open.",
            "The passphrase is another one, or the file was changed.",
            "Type it again.",
            code="wrong-passphrase",
        ) from wrong
    fields = json.loads(said)
    return Kept(
        fields["mesh_name"],
        bytes.fromhex(fields["discovery_key"]),
        fields["root"].encode(),
        fields["key"].encode(),
    )


def _key(passphrase: str, salt: bytes) -> bytes:
    memory = 128 * 1024 * 1024
    return scrypt(passphrase.encode(), salt=salt, n=2**16, r=8, p=1, maxmem=memory, dklen=32)
