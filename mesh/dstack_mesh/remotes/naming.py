"""Under which keys a remote keeps what: the layout, in one place.

    format                         what wrote here first, once and for all
    packs/NAME                     chunks one after the other
    indexes/NAME                   which chunks: NAME is the BLAKE3 of this object
    manifests/DIGEST               lists of files, named by their BLAKE3
    records/KIND/NAME.DIGEST       what is said of runs and tags: never changed, never replaced
    probe/RANDOM                   written and removed when a remote is first used

Order of writing: pack, index, manifest, record of the run, record of the tag. A reader goes the
other way, so whatever it sees is whole. Nothing is ever changed: of two records about one thing the
reader takes what both know together.
"""

import re

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.ids import Digest

FORMAT_KEY = "format"
FORMAT = b"dstack-remote-1\n"

PACKS = "packs/"
INDEXES = "indexes/"
MANIFESTS = "manifests/"
RECORDS = "records/"
PROBES = "probe/"

_NAME = re.compile(r"[0-9a-f]{64}")
_RECORD = re.compile(r"[\w.-]{1,200}\.[0-9a-f]{32}")


def pack_key(name: Digest) -> str:
    """Where the bytes of a pack are."""
    return PACKS + name.hex()


def index_key(name: Digest) -> str:
    """Where the list of a pack's chunks is."""
    return INDEXES + name.hex()


def manifest_key(digest: Digest) -> str:
    """Where a list of files is."""
    return MANIFESTS + digest.hex()


def records_of(kind: str) -> str:
    """What the keys of all records of a kind begin with."""
    return f"{RECORDS}{kind}/"


def record_key(kind: str, name: str, content: bytes) -> str:
    """Where a record is: the same content always has the same key."""
    return f"{records_of(kind)}{name}.{digest_of(content).hex()[:32]}"


def name_in(key: str) -> Digest | None:
    """The name at the end of a pack's or an index's key; None if nobody of us made that key."""
    last = key.rpartition("/")[2]
    return Digest(bytes.fromhex(last)) if _NAME.fullmatch(last) else None


def is_record(key: str) -> bool:
    """Whether a key below `records_of` is one of ours."""
    return _RECORD.fullmatch(key.rpartition("/")[2]) is not None


def is_content_of(key: str, content: bytes) -> bool:
    """Whether a record is what its key says."""
    return key.endswith(f".{digest_of(content).hex()[:32]}")
