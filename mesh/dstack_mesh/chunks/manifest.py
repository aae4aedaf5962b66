"""A list of files by content: what a tree is, in one canonical form.

The same tree has the same encoding, and its BLAKE3 is the tree's name. The form:

    magic, then each entry: kind (1 byte), path length (u16), path, and
      file, executable file: number of chunks (u32), their sizes (u32 each), their digests (32 bytes
      each)
      link: target length (u16), target
      empty folder: nothing

Numbers are little-endian. Entries are sorted by path with "/" before every other character. A
folder is listed only if nothing is in it. Nothing else decodes: every tree has exactly one
encoding.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, pairwise, zip_longest
from typing import assert_never

from dstack_mesh.chunks.digest import DIGEST_BYTES, digest_of, each_digest
from dstack_mesh.chunks.holes import HOLE, is_hole
from dstack_mesh.chunks.paths import link_fault, path_fault
from dstack_mesh.chunks.sizes import shared
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest

MAGIC = b"dstack-manifest-1\n"

CHUNK_BYTES = 1 << 20
"""No chunk is larger, whoever cut it."""

MANIFEST_BYTES = 256 << 20
"""No manifest is larger: about 130 GiB of large files, or two million small ones."""

_FILE, _EXECUTABLE, _LINK, _FOLDER = 0, 1, 2, 3


@frozen(slots=True)
class FileEntry:
    """A regular file.

    Attributes:
        path: Relative, parts joined by "/".
        sizes: Bytes of each chunk.
        digests: Digests of the chunks, 32 bytes each, one after the other.
    """

    path: str
    sizes: tuple[int, ...] = ()
    digests: bytes = b""
    executable: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes)

    @property
    def hole_bytes(self) -> int:
        """Bytes of its holes, which take no room on a disk."""
        if HOLE not in self.digests:
            return 0
        return sum(size for digest, size in self.chunks() if is_hole(digest, size))

    def chunks(self) -> Iterator[tuple[Digest, int]]:
        """Digest and size of each chunk, in order."""
        return zip(each_digest(self.digests), self.sizes, strict=True)


@frozen(slots=True)
class FolderEntry:
    """A folder with nothing in it; others follow from the files in them."""

    path: str


@frozen(slots=True)
class LinkEntry:
    """A symbolic link whose text is relative and stays inside the tree."""

    path: str
    target: str


Entry = FileEntry | FolderEntry | LinkEntry


@frozen
class Manifest:
    """A tree. Always valid and in canonical order, whichever way it was made."""

    entries: tuple[Entry, ...]

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Takes entries in any order; folders that turn out to have something in them are dropped.

        Raises:
            Invalid: A name is not allowed, comes twice, or is used as a folder and as something
                else.
        """
        ordered = _without_parents(sorted(entries, key=_order))
        for entry in ordered:
            _check(entry)
        _check_order(ordered)
        object.__setattr__(self, "entries", tuple(ordered))

    @property
    def files(self) -> int:
        """How many files there are."""
        return sum(isinstance(entry, FileEntry) for entry in self.entries)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.entries if isinstance(entry, FileEntry))

    @property
    def room_bytes(self) -> int:
        """What of them takes room on a disk: all but the holes."""
        files = [entry for entry in self.entries if isinstance(entry, FileEntry)]
        return self.size_bytes - sum(entry.hole_bytes for entry in files)

    def chunk_digests(self) -> list[Digest]:
        """The chunks of all files in order of use, each once."""
        found: dict[Digest, None] = {}
        for entry in self.entries:
            if isinstance(entry, FileEntry):
                found.update(dict.fromkeys(each_digest(entry.digests)))
        return list(found)

    def chunk_sizes(self) -> dict[Digest, int]:
        """The same with the size of each.

        Raises:
            Invalid: A chunk is said to have two sizes.
        """
        sizes: dict[Digest, int] = {}
        for entry in self.entries:
            if isinstance(entry, FileEntry):
                for digest, size in entry.chunks():
                    if sizes.setdefault(digest, size) != size:
                        raise Invalid(
                            "A list of files is not allowed.",
                            f"{entry.path!r}: the chunk {digest.hex()} has two sizes.",
                        )
        return sizes

    def encode(self) -> bytes:
        """The canonical form."""
        return self._encoded

    @property
    def digest(self) -> Digest:
        """The tree's name."""
        return digest_of(self._encoded)

    @cached_property
    def _encoded(self) -> bytes:
        return b"".join([MAGIC, *chain.from_iterable(map(_encode, self.entries))])

    @classmethod
    def decode(cls, encoded: bytes) -> "Manifest":
        """The tree that an encoding says. Bytes from anywhere.

        Raises:
            Invalid: It is not the canonical form of any tree, with the place and the reason.
        """
        if len(encoded) > MANIFEST_BYTES:
            raise _invalid("it is larger than any may be", len(encoded))
        if not encoded.startswith(MAGIC):
            raise _invalid("it does not begin like one", 0)
        entries: list[Entry] = []
        at = len(MAGIC)
        while at < len(encoded):
            entry, at = _decode(encoded, at)
            _check(entry)
            entries.append(entry)
        _check_order(entries)
        if len(_without_parents(entries)) != len(entries):
            raise _invalid("it lists a folder that has something in it", at)
        manifest = cls.__new__(cls)
        object.__setattr__(manifest, "entries", tuple(entries))
        return manifest


def _order(entry: Entry) -> str:
    return entry.path.replace("/", "\0")


def _without_parents(ordered: list[Entry]) -> list[Entry]:
    """Leaves out folders that have something in them. What is in one follows it directly."""
    return [
        entry
        for entry, after in zip_longest(ordered, ordered[1:])
        if not (isinstance(entry, FolderEntry) and after and _below(entry, after))
    ]


def _below(folder: Entry, entry: Entry) -> bool:
    return entry.path.startswith(folder.path + "/")


def _check(entry: Entry) -> None:
    fault = path_fault(entry.path)
    match entry:
        case FileEntry():
            fault = fault or _chunks_fault(entry)
        case LinkEntry():
            fault = fault or link_fault(entry.path, entry.target)
        case FolderEntry():
            pass
        case _:
            assert_never(entry)
    if fault:
        raise Invalid("A list of files is not allowed.", f"{entry.path!r}: {fault}.")


def _chunks_fault(entry: FileEntry) -> str:
    if len(entry.digests) != DIGEST_BYTES * len(entry.sizes):
        return "it has not one digest for each size"
    if entry.sizes and not (min(entry.sizes) > 0 and max(entry.sizes) <= CHUNK_BYTES):
        return f"a chunk of it is empty or larger than {CHUNK_BYTES:,} bytes"
    return ""


def _check_order(entries: list[Entry]) -> None:
    """Raises Invalid unless sorted, each path once, and nothing is below a file or link."""
    orders = pairwise(map(_order, entries))
    for (before, after), (first, second) in zip(pairwise(entries), orders, strict=True):
        if first == second:
            raise Invalid("A list of files is not allowed.", f"{after.path!r} comes twice.")
        if first > second:
            raise Invalid("A list of files is not allowed.", f"{after.path!r} is out of order.")
        if not isinstance(before, FolderEntry) and second.startswith(first + "\0"):
            raise Invalid(
                "A list of files is not allowed.", f"{before.path!r} is used as a folder as well."
            )


def _encode(entry: Entry) -> tuple[bytes, ...]:
    """What its form consists of; the longest part is not copied for it."""
    path = entry.path.encode()
    match entry:
        case FileEntry():
            kind = _EXECUTABLE if entry.executable else _FILE
            sizes = array("I", entry.sizes)
            if sys.byteorder == "big":
                sizes.byteswap()
            body = (struct.pack("<I", len(sizes)) + sizes.tobytes(), entry.digests)
        case LinkEntry():
            kind = _LINK
            target = entry.target.encode()
            body = (struct.pack("<H", len(target)) + target,)
        case FolderEntry():
            kind, body = _FOLDER, ()
        case _:
            assert_never(entry)
    return struct.pack("<BH", kind, len(path)) + path, *body


def _decode(encoded: bytes, at: int) -> tuple[Entry, int]:
    head, at = _take(encoded, at, 3)
    kind, length = struct.unpack("<BH", head)
    path, at = _take_text(encoded, at, length)
    if kind in (_FILE, _EXECUTABLE):
        return _decode_file(encoded, at, path, kind == _EXECUTABLE)
    if kind == _LINK:
        head, at = _take(encoded, at, 2)
        target, at = _take_text(encoded, at, struct.unpack("<H", head)[0])
        return LinkEntry(path, target), at
    if kind == _FOLDER:
        return FolderEntry(path), at
    raise _invalid(f"it has an entry of the unknown kind {kind}", at)


def _decode_file(encoded: bytes, at: int, path: str, executable: bool) -> tuple[FileEntry, int]:
    head, at = _take(encoded, at, 4)
    count = struct.unpack("<I", head)[0]
    raw, at = _take(encoded, at, 4 * count)
    digests, at = _take(encoded, at, DIGEST_BYTES * count)
    sizes = array("I", raw)
    if sys.byteorder == "big":
        sizes.byteswap()
    return FileEntry(path, shared(sizes), digests, executable), at


def _take(encoded: bytes, at: int, length: int) -> tuple[bytes, int]:
    if at + length > len(encoded):
        raise _invalid("it ends too early", at)
    return encoded[at : at + length], at + length


def _take_text(encoded: bytes, at: int, length: int) -> tuple[str, int]:
    raw, end = _take(encoded, at, length)
    try:
        return raw.decode(), end
    except UnicodeDecodeError as error:
        raise _invalid("it has a name that is not UTF-8", at) from error


def _invalid(why: str, at: int) -> Invalid:
    return Invalid("This is not a list of files.", f"At byte {at}, {why}.")


def chunk_sizes_of(encoded: bytes) -> dict[Digest, int]:
    """Each chunk of an encoded manifest once, with its size. Raises Invalid."""
    return Manifest.decode(encoded).chunk_sizes()
