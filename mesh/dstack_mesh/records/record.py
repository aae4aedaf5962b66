"""A record, the head of its writer's stream, and both as the bytes that are signed and kept."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.records.hybrid import Hybrid
from dstack_mesh.signing import Signed

RECORD = "record"
HEAD = "record-head"
"""Purposes of signatures."""

PAYLOAD_BYTES = 48 * 1024
KEY_BYTES = 200
KIND_BYTES = 32

_FORMAT = 1
_GONE = 1
_BODY = struct.Struct(">BBQQQIQBB")
_HEAD = struct.Struct(">BQQQIQI32s")

_LARGEST = 2**63 - 1

Place = tuple[int, int]
"""Where a record stands in its writer's stream: incarnation and sequence number."""

Name = tuple[str, str]
"""What a record is about: its kind and its key."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """How far a writer's stream has come; a later one replaces an earlier one.

    Attributes:
        incarnation: Of the writer: each start takes a higher one, so that a disk that was put back
            to an earlier state goes on beside what others heard, and never in its place.
        seq: Counts the writer's changes within the incarnation.
        tie: Beginning of the set's hash: two copies of one writer are told apart the same way
            everywhere.
    """

    incarnation: int = 0
    seq: int = 0
    tie: int = 0


NOTHING = Version()


@frozen
class Entry:
    """What a writer has to say about something.

    Attributes:
        expires_ms: From then on it is believed no more; 0 is never.
        gone: It is taken back; nothing older about it comes to life again.
    """

    kind: str
    key: str
    payload: bytes = b""
    expires_ms: int = 0
    gone: bool = False

    @property
    def name(self) -> Name:
        return self.kind, self.key


@dataclass(frozen=True, slots=True)
class Record:
    """An entry at its place in the stream, with the bytes that its writer signed."""

    entry: Entry
    place: Place
    at: Hybrid
    body: bytes
    signature: bytes
    leaf: bytes

    def hidden(self, now_ms: int) -> bool:
        """Whether it is taken back or has expired."""
        return self.entry.gone or 0 < self.entry.expires_ms <= now_ms

    def forgotten(self, until_ms: int) -> bool:
        """Whether it belongs to what a writer forgets that has forgotten until then."""
        since = self.at.ms if self.entry.gone else self.entry.expires_ms
        return 0 < since <= until_ms


@frozen
class Head:
    """Names the live records of a writer at a version.

    Attributes:
        digest: Of all leaves in order: place and hash of each record.
        forgotten_ms: Records taken back or expired until then are left out.
        signed: The exact bytes with the writer's signature.
    """

    incarnation: int
    seq: int
    at: Hybrid
    forgotten_ms: int
    records: int
    digest: Digest
    signed: Signed

    @property
    def version(self) -> Version:
        return Version(self.incarnation, self.seq, tie_of(self.digest))

    @cached_property
    def writer(self) -> PeerId:
        return self.signed.signer


@frozen
class Delta:
    """A head, and those of its records that a peer may lack; the frames of one make one."""

    head: Head
    records: tuple[Record, ...]

    @property
    def writer(self) -> PeerId:
        return self.head.writer


def tie_of(digest: Digest) -> int:
    """The part of a set's hash that stands in its version."""
    return int.from_bytes(digest[:8])


def digest_of_leaves(leaves: Iterable[bytes]) -> Digest:
    """The hash of a set of records."""
    return digest_of(b"".join(sorted(leaves)))


def encode_body(entry: Entry, place: Place, at: Hybrid) -> bytes:
    """What is signed of a record. Raises Invalid for one that is too large."""
    kind, key = entry.kind.encode(), entry.key.encode()
    if len(kind) > KIND_BYTES or len(key) > KEY_BYTES or len(entry.payload) > PAYLOAD_BYTES:
        raise _wrong(f"its kind, key and payload have {len(kind)}, {len(key)} and "
                     f"{len(entry.payload)} bytes")  # fmt: skip
    flags = _GONE if entry.gone else 0
    start = _BODY.pack(
        *(_FORMAT, flags, *place, at.ms, at.count, entry.expires_ms, len(kind), len(key))
    )
    return start + kind + key + entry.payload


def record_of(body: bytes, signature: bytes) -> Record:
    """The record that some bytes are. Raises Invalid if they are none; checks no signature."""
    if not _BODY.size <= len(body) <= _BODY.size + KIND_BYTES + KEY_BYTES + PAYLOAD_BYTES:
        raise _wrong(f"it has {len(body)} bytes")
    form, flags, incarnation, seq, ms, count, expires, kind, key = _BODY.unpack_from(body)
    if form != _FORMAT or kind > KIND_BYTES or key > KEY_BYTES:
        raise _wrong(f"its format is {form}")
    if max(incarnation, seq, ms, expires) > _LARGEST:
        raise _wrong("a number in it is too large")
    begin = _BODY.size
    payload = body[begin + kind + key :]
    if len(body) < begin + kind + key or len(payload) > PAYLOAD_BYTES:
        raise _wrong(f"its payload has {len(payload)} bytes")
    try:
        entry = Entry(
            kind=body[begin : begin + kind].decode(),
            key=body[begin + kind : begin + kind + key].decode(),
            payload=payload,
            expires_ms=expires,
            gone=bool(flags & _GONE),
        )
    except UnicodeDecodeError as error:
        raise _wrong("its name is no text") from error
    leaf = struct.pack(">QQ", incarnation, seq) + digest_of(body)
    return Record(entry, (incarnation, seq), Hybrid(ms, count), body, signature, leaf)


def encode_head(
    version: Place, at: Hybrid, forgotten_ms: int, records: int, digest: Digest
) -> bytes:
    """What is signed of a head."""
    return _HEAD.pack(_FORMAT, *version, at.ms, at.count, forgotten_ms, records, digest)


def head_of(signed: Signed) -> Head:
    """The head that some bytes are. Raises Invalid if they are none; checks no signature."""
    if len(signed.body) != _HEAD.size or signed.body[0] != _FORMAT:
        raise Invalid("A head of records is not valid.", f"{len(signed.body)} bytes.", "", "record")
    _, incarnation, seq, ms, count, forgotten, records, digest = _HEAD.unpack(signed.body)
    if max(incarnation, seq, ms, forgotten) > _LARGEST:
        raise Invalid("A head of records is not valid.", "A number is too large.", "", "record")
    return Head(incarnation, seq, Hybrid(ms, count), forgotten, records, Digest(digest), signed)


def _wrong(why: str) -> Invalid:
    return Invalid("A record is not valid.", f"{why[0].upper()}{why[1:]}.", "", "record")
