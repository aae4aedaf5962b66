"""A newcomer's side of an invitation, without the network: what to send and what to believe."""

import secrets
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged, Forbidden, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, private_pem, public_der
from dstack_mesh.ids import Address, MeshId
from dstack_mesh.signing import Signed
from dstack_mesh.trust.authority import (
    already_a_member,
    make_request,
    mesh_of_root,
    request_of,
    to_pem,
)
from dstack_mesh.trust.invite import (
    NONCE_BYTES,
    Code,
    Transcript,
    derive_key,
    wrong_code,
)
from dstack_mesh.trust.membership import Membership, Role, issuer_key_path, issuer_path
from dstack_mesh.trust.path import checked_path, key_id
from dstack_mesh.trust.renewing import checked_issuer


@frozen
class Greeting:
    """The listener's first answer."""

    mesh_id: MeshId
    nonce: bytes
    proof: bytes


@frozen
class Reply:
    """The listener's last answer."""

    certificate_pem: bytes
    root_pem: bytes
    mesh_name: str
    discovery_key: bytes
    seeds: tuple[Address, ...]
    role: str
    proof: bytes
    statements: tuple[Signed, ...] = ()
    issuer_pem: bytes = b""

    def fields(self) -> tuple[bytes, ...]:
        """What the proof covers; statements and an issuer's certificate prove themselves."""
        return (
            self.certificate_pem,
            self.root_pem,
            self.mesh_name.encode(),
            self.discovery_key,
            "\n".join(self.seeds).encode(),
            self.role.encode(),
        )


@frozen
class Agreement:
    """The listener proved to know the code: its words may be shown and its reply believed."""

    key: bytes
    transcript: Transcript

    @property
    def words(self) -> tuple[str, str, str, str]:
        return self.transcript.words(self.key)

    @property
    def proof(self) -> bytes:
        return self.transcript.newcomer_proof(self.key)


class Newcomer:
    """Joins a home to a mesh by a code.

    Args:
        home: Whose key joins.
        code: What somebody read to us.
        name: What people shall call this machine.
    """

    def __init__(self, home: Home, code: Code, name: str = "") -> None:
        self.home = home
        self.name = name
        self._code = code
        self._identity = Identity.load_or_make(home)
        self.public_key = public_der(self._identity.private_key().public_key())
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self._issuer_key = ec.generate_private_key(ec.SECP256R1())
        self._derived: tuple[MeshId, bytes] | None = None

    @property
    def invite_id(self) -> str:
        return self._code.invite_id

    def check(self, greeting: Greeting, listener_hash: bytes) -> Agreement:
        """Believes the listener only if it knows the code.

        A quarter of a second of scrypt, for the first of those that name one mesh.

        Raises:
            Forbidden: It does not know the code, or somebody stands in between.
        """
        if len(greeting.nonce) != NONCE_BYTES:
            raise wrong_code()
        key = self._key(greeting.mesh_id)
        transcript = Transcript(
            mesh_id=greeting.mesh_id,
            invite_id=self._code.invite_id,
            listener_hash=listener_hash,
            newcomer_key=self.public_key,
            newcomer_nonce=self.nonce,
            listener_nonce=greeting.nonce,
        )
        if not secrets.compare_digest(transcript.listener_proof(key), greeting.proof):
            raise wrong_code()
        return Agreement(key, transcript)

    def _key(self, mesh_id: MeshId) -> bytes:
        if self._derived is None or self._derived[0] != mesh_id:
            self._derived = mesh_id, derive_key(self._code, mesh_id)
        return self._derived[1]

    def check_free(self, mesh_id: MeshId) -> None:
        """Raises Refused if this home is a member of another mesh, or the root of this one.

        A member may join its mesh again, for a new certificate or another role.
        """
        present = Membership.load(self.home)
        if present is None:
            return
        if present.mesh_id != mesh_id or present.role is Role.ROOT:
            raise already_a_member(present)

    def request(self) -> bytes:
        """The certificate request, DER."""
        return make_request(self._identity)

    def issuer_request(self) -> bytes:
        """The same for a key that would sign certificates, should we become an admin."""
        return request_of(self._issuer_key)

    def finish(self, agreement: Agreement, reply: Reply, now: datetime) -> Membership:
        """Checks the reply and writes the membership down.

        Raises:
            Forbidden: The reply is not of the listener that proved itself.
            Damaged: The certificates do not belong together or to us.
            Refused: The certificate is not valid by this machine's clock.
        """
        expected = agreement.transcript.reply_proof(agreement.key, *reply.fields())
        if not secrets.compare_digest(expected, reply.proof):
            raise Forbidden("The listener's reply was changed on its way.", code="bad-reply")
        leaf = self._checked_leaf(agreement, reply)
        membership = Membership(
            mesh_id=agreement.transcript.mesh_id,
            mesh_name=reply.mesh_name,
            role=_role(reply.role),
            peer_id=self._identity.peer_id,
            discovery_key=reply.discovery_key,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            folder=self.home.keys,
            seeds=reply.seeds,
        )
        membership.check_valid(now)
        if reply.issuer_pem:
            self._keep_issuer(reply)
        membership.store(self.home, reply.certificate_pem, reply.root_pem)
        return membership

    def _checked_leaf(self, agreement: Agreement, reply: Reply) -> x509.Certificate:
        root = _root(reply)
        leaf = checked_path(reply.certificate_pem, root)[0]
        ours = key_id(leaf) == id_of_key(self.public_key)
        if not ours or mesh_of_root(root) != agreement.transcript.mesh_id:
            raise Damaged("The certificate is not for this home.", f"Its key is {key_id(leaf)}.")
        return leaf

    def _keep_issuer(self, reply: Reply) -> None:
        """Writes our signing key down with the root's word for it, before we are a member."""
        issuer = checked_issuer(reply.issuer_pem, _root(reply), self._issuer_key.public_key())
        write_durably(issuer_key_path(self.home), private_pem(self._issuer_key))
        write_durably(issuer_path(self.home), to_pem(issuer))


def _root(reply: Reply) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(reply.root_pem)
    except ValueError as broken:
        raise Damaged("The mesh's root certificate cannot be read.", str(broken)) from broken


def _role(word: str) -> Role:
    try:
        return Role(word)
    except ValueError:
        raise Refused(
            "The invitation's role is not known here.", f"{word!r}.", "Update the software."
        ) from None
