"""Who calls: taken from the connection, never from a field of a message."""

from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import grpc

from dstack_mesh.faults import Forbidden
from dstack_mesh.frozen import frozen
from dstack_mesh.identity import id_of_key, public_der
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.ownership import is_owners

if TYPE_CHECKING:
    from cryptography import x509


@frozen
class Owner:
    """The person whose agent this is, over its Unix socket, with the secret of the home."""


@frozen
class Member:
    """A member of the mesh, proved by TLS.

    `role` is the roster's; while its admission is not known here, what its certificate was signed
    for. `issuer` is the key that signed it, None for the root's.
    """

    peer_id: PeerId
    role: Role
    issuer: PeerId | None = None


@frozen
class Stranger:
    """Somebody who proves nothing: without a certificate, as the listener of an invitation hears
    them, or a process of this machine without the secret of the home, such as a walled job."""


Caller = Owner | Member | Stranger

LONGEST_CHAIN_BYTES = 8192
"""Of what a caller shows beside its certificate: its issuer's, which has 700."""


_JUDGED: ContextVar["tuple[Any, Caller] | None"] = ContextVar("judged", default=None)


def caller(context: "grpc.aio.ServicerContext[Any, Any]") -> Caller:
    """Who is at the other end of this call. Raises Forbidden for TLS older than 1.3."""
    judged = _JUDGED.get()
    if judged is not None and judged[0] is context:
        return judged[1]
    return certified(context)


def judge(context: "grpc.aio.ServicerContext[Any, Any]", who: Caller) -> None:
    """From now on `caller` says so, in the task of this call and those that it starts."""
    _JUDGED.set((context, who))


def certified(context: "grpc.aio.ServicerContext[Any, Any]") -> Caller:
    """Who calls, by the connection alone. Raises Forbidden for TLS older than 1.3."""
    facts = context.auth_context()
    transport = _first(facts.get("transport_security_type"))
    if transport == b"local":
        return Owner() if is_owners(context) else Stranger()
    if transport != b"ssl":
        raise Forbidden("This connection is not encrypted.", code="plaintext")
    version = _first(facts.get("ssl_tls_version"))
    if version != b"TLSv1.3":
        raise Forbidden(
            "This connection uses an old TLS.",
            f"It speaks {version.decode(errors='replace')}.",
            "Update the calling software; TLS 1.3 is required.",
            code="old-tls",
        )
    certificate = _first(facts.get("x509_pem_cert"))
    if not certificate:
        return Stranger()
    return _member(certificate, _first(facts.get("x509_pem_cert_chain")))


def _first(values: Any) -> bytes:
    return next(iter(values), b"") if values is not None else b""


@lru_cache(maxsize=1024)
def _member(certificate_pem: bytes, shown_pem: bytes) -> Member:
    # The id is computed from the key, so an authority's mistake cannot give away a peer's name.
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    certificate = x509.load_pem_x509_certificate(certificate_pem)
    key = certificate.public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        raise _of_no_member("Its key is of another kind.")
    peer_id = PeerId(id_of_key(public_der(key)))
    try:
        role = _role(_names(certificate, peer_id))
    except x509.ExtensionNotFound as lacking:
        raise _of_no_member("It does not say whose it is, or for what.") from lacking
    return Member(peer_id, role, _issuer(certificate, shown_pem))


def _issuer(certificate: "x509.Certificate", shown_pem: bytes) -> PeerId | None:
    if not shown_pem:
        return None
    if len(shown_pem) > LONGEST_CHAIN_BYTES:
        raise Forbidden("The caller shows more certificates than any member has.", code="no-right")
    from cryptography import x509

    from dstack_mesh.trust.path import issuer_of

    return issuer_of(certificate, x509.load_pem_x509_certificates(shown_pem))


def _names(certificate: "x509.Certificate", peer_id: PeerId) -> set[str]:
    """What a member's certificate calls it. TLS accepts whatever an authority signed."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    extensions = certificate.extensions
    if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise _of_no_member("It is an authority's.")
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise _of_no_member("It is for something else.")
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = set(names.get_values_for_type(x509.UniformResourceIdentifier))
    if not any(uri.endswith(f"/n/{peer_id}") for uri in uris):
        raise _of_no_member("It names another peer than its key does.")
    return uris


def _of_no_member(why: str) -> Forbidden:
    return Forbidden(
        "The caller's certificate is of a kind that no member has.", why, code="no-member"
    )


def _role(names: set[str]) -> Role:
    """What an authority let the member do; a role that is not known here only reads."""
    words = {uri.rpartition("/r/")[2] for uri in names if "/r/" in uri}
    return next((role for role in Role if role.right in words), Role.READER)
