"""Statements of the roster as bytes that are signed, and back."""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC

from google.protobuf.message import DecodeError

from dstack_mesh.faults import Damaged, MeshError
from dstack_mesh.identity import is_id
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.own_name import printable
from dstack_mesh.signing import (
    LONGEST_KEY_BYTES,
    LONGEST_SIGNATURE_BYTES,
    Signed,
    Signer,
    check,
)
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.statement import (
    DIGEST_BYTES,
    LAST_YEAR,
    LONGEST_STATEMENT_BYTES,
    MOST_OF_A_MEMBER,
    PURPOSE,
    AddAdmin,
    AddIssuer,
    Admit,
    Assign,
    Fact,
    Leave,
    RemoveAdmin,
    RemoveIssuer,
    RequireProtocol,
    Revoke,
    Sealed,
    Statement,
    Unread,
)
from dstack_mesh.v1 import roster_pb2 as pb

log = logging.getLogger(__name__)

LONGEST_NAME = 200

_ROLES = {
    Role.READER: pb.MEMBER_ROLE_READER,
    Role.SUBMITTER: pb.MEMBER_ROLE_SUBMITTER,
    Role.RUNNER: pb.MEMBER_ROLE_RUNNER,
    Role.ROOT: pb.MEMBER_ROLE_ROOT,
}
"""Nobody is admitted as an admin: the root makes an admin of a member."""

_ROLES_BACK = {wire: role for role, wire in _ROLES.items()}


def seal(signer: Signer, statement: Statement) -> Sealed:
    """Signs a statement. Raises Damaged if nobody would believe it."""
    body = to_wire(statement).SerializeToString()
    signed = signer.sign(PURPOSE, body)
    return Sealed(read_body(signed), signed)


def unseal(signed: Signed) -> Sealed:
    """The statement, checked: its issuer signed it and it says something that can be.

    Raises:
        Damaged: Nobody signed it, or it cannot be read.
    """
    statement = read_body(signed)
    check(PURPOSE, signed)
    return Sealed(statement, signed)


def readable(arrived: Iterable[Signed]) -> list[Sealed]:
    """Those that can be read, whoever signed them; the others are left out."""
    return _each(lambda signed: Sealed(read_body(signed), signed), arrived)


def verified(arrived: Iterable[Signed]) -> list[Sealed]:
    """Those that somebody signed and that can be read; the others are left out."""
    return _each(unseal, arrived)


def _each(convert: Callable[[Signed], Sealed], arrived: Iterable[Signed]) -> list[Sealed]:
    kept: list[Sealed] = []
    wrong: list[MeshError] = []
    for signed in arrived:
        try:
            kept.append(convert(signed))
        except MeshError as found:
            wrong.append(found)
    if wrong:
        log.warning("%d statements of the roster are left out; one: %s", len(wrong), wrong[0])
    return kept


def read_body(signed: Signed) -> Statement:
    """What signed bytes say, where the signature was checked before. Raises Damaged."""
    if (
        len(signed.body) > LONGEST_STATEMENT_BYTES
        or len(signed.key) > LONGEST_KEY_BYTES
        or len(signed.signature) > LONGEST_SIGNATURE_BYTES
    ):
        raise _unreadable(f"It has {len(signed.body)} bytes.")
    try:
        statement = from_wire(pb.Statement.FromString(signed.body))
    except (DecodeError, ValueError, OverflowError) as broken:
        raise _unreadable(str(broken)) from broken
    if statement.issuer != signed.signer:
        raise _unreadable(f"It claims to be of {statement.issuer!r} and {signed.signer} signed.")
    return statement


def to_wire(statement: Statement) -> pb.Statement:
    message = pb.Statement(
        mesh_id=statement.mesh_id,
        issuer=statement.issuer,
        seq=statement.seq,
        previous=statement.previous,
    )
    message.at.FromDatetime(statement.at)
    _put(statement.fact, message)
    return message


def from_wire(message: pb.Statement) -> Statement:
    """Raises ValueError if nobody could have meant it."""
    if message.seq < 1 or len(message.previous) != (DIGEST_BYTES if message.seq > 1 else 0):
        raise ValueError(f"number {message.seq} after a hash of {len(message.previous)} bytes")
    at = message.at.ToDatetime(UTC)
    if at.year > LAST_YEAR:
        raise ValueError(f"said in {at.year}")
    return Statement(
        mesh_id=MeshId(_id(message.mesh_id)),
        issuer=_id(message.issuer),
        seq=message.seq,
        previous=message.previous,
        at=at,
        fact=_fact(message),
    )


def signed_to_wire(signed: Signed) -> pb.SignedStatement:
    return pb.SignedStatement(body=signed.body, key=signed.key, signature=signed.signature)


def signed_from_wire(message: pb.SignedStatement) -> Signed:
    """Believe it only after `unseal`."""
    return Signed(message.body, message.key, message.signature)


def _put(fact: Fact, message: pb.Statement) -> None:
    match fact:
        case Admit():
            _put_admit(fact, message.admit)
        case Assign(subject, role):
            message.assign.CopyFrom(pb.Assign(subject=subject, role=_ROLES[role]))
        case Revoke(subject, why, stop):
            message.revoke.CopyFrom(pb.Revoke(subject=subject, why=why, stop=stop))
        case Leave(admissions):
            message.leave.CopyFrom(pb.Leave(admissions=admissions))
        case Unread():
            pass
        case _:
            _put_of_root(fact, message)


def _put_of_root(
    fact: AddAdmin | RemoveAdmin | AddIssuer | RemoveIssuer | RequireProtocol,
    message: pb.Statement,
) -> None:
    match fact:
        case AddAdmin(subject):
            message.add_admin.CopyFrom(pb.AddAdmin(subject=subject))
        case RemoveAdmin(subject, seq, digest):
            removal = pb.RemoveAdmin(subject=subject, last_seq=seq, last_digest=digest)
            message.remove_admin.CopyFrom(removal)
        case AddIssuer(subject, holder):
            message.add_issuer.CopyFrom(pb.AddIssuer(subject=subject, holder=holder))
        case RemoveIssuer(subject):
            message.remove_issuer.CopyFrom(pb.RemoveIssuer(subject=subject))
        case RequireProtocol(protocol):
            message.require_protocol.CopyFrom(pb.RequireProtocol(protocol=protocol))


def _put_admit(fact: Admit, message: pb.Admit) -> None:
    message.subject, message.role = fact.subject, _ROLES[fact.role]
    message.name, message.through = fact.name[:LONGEST_NAME], fact.through[:LONGEST_NAME]
    if fact.expires_at is not None:
        message.expires_at.FromDatetime(fact.expires_at)


def _fact(message: pb.Statement) -> Fact:
    match message.WhichOneof("fact"):
        case "admit":
            return _admit(message.admit)
        case "assign":
            role = _ROLES_BACK.get(message.assign.role)
            return Assign(_id(message.assign.subject), role) if role else Unread()
        case "revoke":
            said = message.revoke
            return Revoke(_id(said.subject), _text(said.why), said.stop)
        case "leave":
            return Leave(tuple(map(_digest, message.leave.admissions[:MOST_OF_A_MEMBER])))
        case "add_admin" | "remove_admin":
            return _admin(message)
        case "add_issuer":
            return AddIssuer(_id(message.add_issuer.subject), _id(message.add_issuer.holder))
        case "remove_issuer":
            return RemoveIssuer(_id(message.remove_issuer.subject))
        case "require_protocol":
            return RequireProtocol(message.require_protocol.protocol)
        case None:
            return Unread()


def _admit(message: pb.Admit) -> Fact:
    role = _ROLES_BACK.get(message.role)
    if role is None:
        return Unread()
    until = message.expires_at.ToDatetime(UTC) if message.HasField("expires_at") else None
    subject, name, through = _id(message.subject), _text(message.name), _text(message.through)
    return Admit(subject, role, name, through, until)


def _admin(message: pb.Statement) -> Fact:
    if message.HasField("add_admin"):
        return AddAdmin(_id(message.add_admin.subject))
    removal = message.remove_admin
    last = _digest(removal.last_digest) if removal.last_seq else b""
    return RemoveAdmin(_id(removal.subject), removal.last_seq, last)


def _id(text: str) -> PeerId:
    if not is_id(text):
        raise ValueError(f"{text!r} is no id")
    return PeerId(text)


def _digest(digest: bytes) -> bytes:
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a hash of {len(digest)} bytes")
    return digest


def _text(text: str) -> str:
    return printable(text, LONGEST_NAME)


def _unreadable(why: str) -> Damaged:
    return Damaged("A statement of the roster cannot be read.", why, code="bad-statement")
