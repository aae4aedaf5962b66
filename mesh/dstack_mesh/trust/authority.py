"""The mesh's own certificate authority: makes a mesh and signs its members' certificates.

The root signs members and issuers; an issuer, which an admin has, signs members and nothing else.

A certificate holds ids and nothing that a person could read: a stranger who connects sees the leaf.
"""

import secrets
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.home import Home
from dstack_mesh.identity import (
    Identity,
    id_of_key,
    private_pem,
    public_der,
    read_private_key,
)
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.membership import (
    Membership,
    Role,
    can_invite,
    holds_root,
    issuer_key_path,
    issuer_path,
    root_key_path,
)
from dstack_mesh.trust.roster.statement import ASSIGNABLE

LEAF_LIFE = timedelta(days=90)
ISSUER_LIFE = timedelta(days=365)
ROOT_LIFE = timedelta(days=3650)
BACKDATED = timedelta(hours=1)
"""Clocks of a lab differ; a new certificate holds at once everywhere."""

LONGEST_MESH_NAME = 64


def create_mesh(home: Home, name: str, now: datetime) -> Membership:
    """Makes a mesh whose root key lives in this home, with this home as its first member.

    Raises:
        Invalid: The name cannot be shown to people.
        Refused: This home is a member of a mesh already.
    """
    if not name.strip() or len(name) > LONGEST_MESH_NAME or not name.isprintable():
        raise Invalid(
            "This cannot be a mesh's name.",
            f"{name!r}; 1 to {LONGEST_MESH_NAME} printable characters can.",
        )
    present = Membership.load(home)
    if present is not None:
        raise already_a_member(present)
    identity = Identity.load_or_make(home)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _self_signed(root_key, now)
    leaf = sign_leaf(root_key, root, identity.private_key().public_key(), now, role=Role.ROOT)
    membership = Membership(
        mesh_id=mesh_of_root(root),
        mesh_name=name.strip(),
        role=Role.ROOT,
        peer_id=identity.peer_id,
        discovery_key=secrets.token_bytes(32),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        folder=home.keys,
    )
    write_durably(root_key_path(home), private_pem(root_key))
    membership.store(home, to_pem(leaf), to_pem(root))
    return membership


def already_a_member(present: Membership) -> Refused:
    """The error of a home that cannot have a second mesh."""
    return Refused(
        f'This home is a member of the mesh "{present.mesh_name}" already.',
        f"Its id is {present.mesh_id}.",
        "Leave it first with `dstack mesh leave`, or use another home: `--home DIR`.",
        code="already-a-member",
    )


class Authority:
    """Signs certificates with the root key of this home, else with its issuer key.

    Raises Refused where it has neither.
    """

    def __init__(self, home: Home) -> None:
        if not can_invite(home):
            raise Refused(
                "This home cannot invite.",
                f"Neither the mesh's root key nor an admin's is in {home.keys}.",
                "Invite from the machine where `dstack mesh create` was run, or from an admin's.",
                code="cannot-invite",
            )
        self.membership = Membership.require(home)
        self._root = x509.load_pem_x509_certificate(self.membership.root_path.read_bytes())
        self.is_root = holds_root(home)
        if self.is_root:
            self._key, self._above = read_private_key(root_key_path(home)), self._root
        else:
            self._key = read_private_key(issuer_key_path(home))
            self._above = x509.load_pem_x509_certificate(issuer_path(home).read_bytes())
        self.key_id = PeerId(id_of_key(public_der(self._key.public_key())))

    @property
    def root_pem(self) -> bytes:
        return to_pem(self._root)

    def until(self, now: datetime) -> datetime:
        """Until when a certificate holds that is signed now. Raises Refused for an old issuer."""
        last = self._above.not_valid_after_utc
        if now >= last:
            raise Refused(
                "This home's right to invite has expired.",
                f"The root gave it until {last:%Y-%m-%d %H:%M} UTC.",
                "It is renewed at an agent of the root's home: start one. Or the root invites it "
                "again: `dstack mesh invite --role admin`.",
                code="issuer-expired",
            )
        return min(now + LEAF_LIFE, last)

    def sign(self, request: x509.CertificateSigningRequest, role: Role, now: datetime) -> bytes:
        """A member's certificate for the key in the request, as PEM, with the issuer's if there is
        one between it and the root. Raises Invalid, or Refused for an issuer that expired.

        An issuer names no role above a runner's: of others the roster speaks.
        """
        life = self.until(now) - now
        if self.is_root:
            return to_pem(sign_leaf(self._key, self._root, key_of(request), now, life, role=role))
        named = role if role in ASSIGNABLE else Role.RUNNER
        leaf = sign_leaf(self._key, self._above, key_of(request), now, life, role=named)
        return to_pem(leaf) + to_pem(self._above)

    def sign_issuer(self, request: x509.CertificateSigningRequest, now: datetime) -> bytes:
        """A certificate for an admin's signing key, as PEM. Raises Invalid, or Refused off root."""
        if not self.is_root:
            raise Refused("Only the mesh's root makes issuers.", code="cannot-invite")
        return to_pem(sign_issuer(self._key, self._root, key_of(request), now))


def make_request(identity: Identity) -> bytes:
    """A certificate request in DER: proves that the peer has the key, and says nothing else."""
    return request_of(identity.private_key())


def request_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The same for any key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def read_request(der: bytes, expected_key: bytes) -> x509.CertificateSigningRequest:
    """The request, if it is signed by the key that it names and that key is the expected one."""
    request = parse_request(der)
    if public_der(key_of(request)) != expected_key:
        raise Invalid("A certificate request is not signed by the key that was named before.")
    return request


def parse_request(der: bytes) -> x509.CertificateSigningRequest:
    """The request, if it is signed by the key that it names. Raises Invalid."""
    try:
        request = x509.load_der_x509_csr(der)
        good = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as broken:
        raise Invalid("A certificate request cannot be read.", str(broken)) from broken
    if not good:
        raise Invalid("A certificate request is not signed by the key that it names.")
    return request


def key_of(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The key that a request is about. Raises Invalid unless it is P-256."""
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("A certificate request has a key of the wrong kind.", "It is not P-256.")
    return key


def sign_leaf(
    root_key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta = LEAF_LIFE,
    *,
    role: Role = Role.READER,
) -> x509.Certificate:
    """A certificate for a member's key: its id, its role and the mesh's id, for both ends."""
    peer_id, mesh_id = PeerId(id_of_key(public_der(key))), mesh_of_root(root)
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName(f"{peer_id}.mesh"),
            x509.DNSName("mesh"),
            x509.UniformResourceIdentifier(f"mesh://{mesh_id}/n/{peer_id}"),
            x509.UniformResourceIdentifier(f"mesh://{mesh_id}/r/{role.right}"),
        ]
    )
    usage = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    )
    builder = _dated(now, life).subject_name(_random_name()).issuer_name(root.subject)
    builder = builder.public_key(key).add_extension(names, critical=False)
    builder = builder.add_extension(usage, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    return builder.add_extension(authority, critical=False).sign(root_key, hashes.SHA256())


def sign_issuer(
    root_key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta = ISSUER_LIFE,
) -> x509.Certificate:
    """A certificate for a key that signs members' certificates, and no issuer's."""
    builder = _dated(now, life).subject_name(_random_name()).issuer_name(root.subject)
    builder = builder.public_key(key)
    builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
    builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
    own = x509.SubjectKeyIdentifier.from_public_key(key)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    builder = builder.add_extension(own, critical=False)
    return builder.add_extension(authority, critical=False).sign(root_key, hashes.SHA256())


def mesh_of_root(root: x509.Certificate) -> MeshId:
    """The mesh's id: the hash of its root key. Raises Invalid for a key of another kind."""
    key = root.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid("A mesh's root has a key of the wrong kind.", "It is not P-256.")
    return MeshId(id_of_key(public_der(key)))


def throw_away_certificate(now: datetime, life: timedelta) -> tuple[bytes, bytes]:
    """A private key and a self-signed certificate (PEM) that stand for nobody, for one listener."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _random_name()
    builder = _dated(now, life).subject_name(name).issuer_name(name).public_key(key.public_key())
    names = x509.SubjectAlternativeName([x509.DNSName("mesh-join")])
    builder = builder.add_extension(names, critical=False)
    # gRPC's client pins it as the only root, and a root must say that it may be one.
    builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
    return private_pem(key), to_pem(builder.sign(key, hashes.SHA256()))


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = _random_name()
    builder = _dated(now, ROOT_LIFE).subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(True, 1), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
    return builder.sign(key, hashes.SHA256())


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _dated(now: datetime, life: timedelta) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - BACKDATED).not_valid_after(now + life)


def _random_name() -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, secrets.token_hex(8))])
