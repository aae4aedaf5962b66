"""Writes chunks straight into the files of a tree, as they arrive.

Rules: names are opened as `laying` does; each chunk is verified and written to the place of its
first use, its other uses are copied from there at the end; holes stay holes; a file gets its name
once it is whole; a file that was laid here before and did not change since stays as it is, and one
that did gives what the new one has in common with it.
On return from `finish` everything survives a loss of power.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from dstack_mesh.chunks.cache import Cut, FileCache, Stamp
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.direct import DIRECT_BYTES, DirectWriter
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.former import former_chunks
from dstack_mesh.chunks.holes import is_hole
from dstack_mesh.chunks.laying import draft_name, lay_link, pwrite_all
from dstack_mesh.chunks.manifest import Entry, FileEntry, FolderEntry, LinkEntry, Manifest
from dstack_mesh.chunks.paths import link_fault
from dstack_mesh.chunks.reading import stamp_of
from dstack_mesh.chunks.room import check_room, trouble
from dstack_mesh.chunks.syncing import LARGE_BYTES, Syncer
from dstack_mesh.chunks.unchanged import lying, mark
from dstack_mesh.chunks.uses import Use, Uses
from dstack_mesh.faults import Damaged, MeshError, Missing, Refused
from dstack_mesh.ids import Digest

OPEN_FILES = 32
"""Files that are open for writing at a time."""

SYNC_BYTES = 64 << 20
"""A large file is synced each time this much of it was written."""

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = _OPEN | os.O_CREAT | os.O_EXCL


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was written.

    Attributes:
        received_bytes: How much of it came over the network.
        path: Where it is: the folder, or the file if one was asked for.
        left_out: Links that lead out of what was asked for.
    """

    files: int
    size_bytes: int
    received_bytes: int
    path: Path
    left_out: tuple[str, ...] = ()


@dataclass(slots=True)
class _Part:
    """A file that is written under the name `draft` until it is whole; then `draft` is "".

    Attributes:
        blank: Nothing is written into it: it is empty, or a hole.
    """

    entry: FileEntry
    missing_bytes: int
    direct: bool
    blank: bool = False
    draft: str = ""
    fd: int = -1
    unsynced_bytes: int = 0
    copies: list[tuple[int, Digest]] = field(default_factory=list[tuple[int, Digest]])


class Receiver:
    """The files of a manifest, or of what lies below one of its paths, on their way to disk.

    For one thread at a time. Call `finish` at the end, and `close` in any case: it removes what is
    not whole. Every method raises Busy if the disk is full and Refused if a name is in the way.
    """

    def __init__(
        self, manifest: Manifest, target: Path, prefix: str = "", cache: FileCache | None = None
    ) -> None:
        """Makes the folder and plans; no file yet.

        Args:
            target: The folder to lay a folder out in. For a file, its new path or a folder for it.
            prefix: A file or folder of the manifest; "" is the whole tree.
            cache: Remembers what was laid; without, everything is laid anew.

        Raises:
            Missing: The manifest has nothing of that name.
            Busy: There is not enough room on the disk.
        """
        self._root, self._path, entries = _choose(manifest, prefix.strip("/"), target)
        self._uses: Uses[_Part] = Uses()
        self._open: OrderedDict[str, _Part] = OrderedDict()
        self._cache = cache
        self._laid: list[tuple[FileEntry, Stamp]] = []
        files = [entry for entry in entries if isinstance(entry, FileEntry)]
        rest = [entry for entry in entries if not isinstance(entry, FileEntry)]
        self._rest = [entry for entry in rest if not _leads_out(entry)]
        self._left_out = tuple(entry.path for entry in rest if _leads_out(entry))
        self._files = len(files)
        self._size = sum(entry.size_bytes for entry in files)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._folders = Folders(self._root)
        except OSError as error:
            raise _in_words(error, self._root) from error
        try:
            self._lying = lying(self._folders, files, cache)
            same = self._lying.same
            self._parts = [self._plan(entry) for entry in files if entry.path not in same]
            lacking = sum(part.missing_bytes for part in self._parts)
            self.kept_bytes = self._size - lacking
            check_room(self._root, lacking)
        except BaseException:
            self._folders.close()
            raise
        self._syncer = Syncer()
        self._direct = DirectWriter()

    @property
    def wanted(self) -> list[Digest]:
        """The chunks it takes, each once, best sent in this order."""
        return self._uses.wanted

    def wanted_bytes(self, digests: Sequence[Digest]) -> int:
        """Bytes of some of them."""
        return sum(map(self._uses.size, digests))

    def reuse(self, told: Callable[[int], None]) -> None:
        """Writes what files that are about to be replaced have of the new ones; it is not wanted
        any more.

        Args:
            told: Called with the bytes written each time some were.
        """
        for part in self._parts:
            path = part.entry.path
            if path not in self._lying.others:
                continue
            for digests, data in former_chunks(self._folders, path, self._cache, self._uses.claim):
                self._uses.have(digests)
                self._put([self._uses.of(digest) for digest in digests], data)
                told(len(data))

    def take(self, digests: Sequence[Digest], data: memoryview) -> None:
        """Verifies and writes chunks that lie side by side in `data`.

        Raises:
            Damaged: A chunk is not what was wanted.
        """
        at = 0
        uses: list[Use[_Part]] = []
        for digest in digests:
            use = self._uses.find(digest)
            if use is None or digest_of(data[at : at + use.size]) != digest:
                raise Damaged("A chunk arrived damaged.", digest.hex(), "Fetch it again.")
            at += use.size
            uses.append(use)
        self._put(uses, data)

    def _put(self, uses: Sequence[Use[_Part]], data: memoryview) -> None:
        try:
            for part, offset, piece in _runs(uses, data):
                self._write(part, offset, piece)
        except OSError as error:
            raise _in_words(error, self._root) from error

    def finish(self, received_bytes: int) -> Fetched:
        """Copies what is used twice, makes links and returns once everything is durable."""
        try:
            for part in self._parts:
                self._complete(part)
            for entry in self._rest:
                if isinstance(entry, FolderEntry):
                    self._folders.enter(entry.path, make=True)
                else:
                    lay_link(entry, self._folders)
        except OSError as error:
            raise _in_words(error, self._root) from error
        self.settle()
        return Fetched(self._files, self._size, received_bytes, self._path, self._left_out)

    def settle(self) -> None:
        """Makes the files that are whole by now durable, and known to who comes again."""
        entries = [entry for entry, _ in self._laid]
        large = {entry.path for entry in entries if entry.size_bytes >= LARGE_BYTES}
        small = [entry.path for entry in entries if entry.path not in large]
        try:
            self._syncer.finish(self._folders, large, small)
        except OSError as error:
            raise _in_words(error, self._root) from error
        if self._cache and self._laid:
            cuts = ((at, Cut(entry.sizes, entry.digests)) for entry, at in self._laid)
            self._cache.remember(cuts)

    def rescued(self) -> Iterator[tuple[Digest, bytes]]:
        """Chunks in files that are not whole and go with `close`, verified; what files had that
        stay is there still."""
        over: set[str] = set()
        for digest in self._uses.wanted:
            use = self._uses.of(digest)
            path = use.part.entry.path
            if not use.part.draft or path in over:
                continue
            try:
                data = self._written(use)
            except OSError as error:
                raise _in_words(error, self._root) from error
            if digest_of(data) == digest:
                yield digest, data
            else:  # they came in order: no more of it is here
                over.add(path)

    def close(self) -> None:
        """Lets go of everything and removes files that are not whole."""
        self._direct.close()
        for part in self._parts:
            if part.fd >= 0:
                os.close(part.fd)
                part.fd = -1
            if part.draft:
                with suppress(OSError):
                    folder, _ = split(part.entry.path)
                    os.unlink(part.draft, dir_fd=self._folders.enter(folder))
        self._syncer.close()
        self._folders.close()

    def _plan(self, entry: FileEntry) -> _Part:
        part = _Part(entry, entry.size_bytes, entry.size_bytes >= DIRECT_BYTES)
        offset = 0
        for digest, size in entry.chunks():
            if is_hole(digest, size):
                part.missing_bytes -= size
            elif not self._uses.add(digest, part, offset, size):
                part.copies.append((offset, digest))
            offset += size
        part.blank = part.missing_bytes == 0
        return part

    def _write(self, part: _Part, offset: int, piece: memoryview) -> None:
        if not part.draft and len(piece) == part.entry.size_bytes and not part.direct:
            self._write_whole(part, piece)
            return
        file = self._opened(part)
        if part.direct:
            if not self._direct.writes(file):
                self._direct.begin(file)
            self._direct.write(piece, offset)
        else:
            pwrite_all(file, piece, offset)
        part.missing_bytes -= len(piece)
        part.unsynced_bytes += len(piece)
        if part.missing_bytes == 0:
            self._name(part)
        elif part.unsynced_bytes >= SYNC_BYTES:
            self._syncer.begin(part.fd)
            part.unsynced_bytes = 0

    def _write_whole(self, part: _Part, data: memoryview) -> None:
        """The same of all of a file, which most files of most trees are."""
        folder_path, name = split(part.entry.path)
        folder = self._folders.enter(folder_path, make=True)
        part.draft = draft_name()
        file = os.open(part.draft, _CREATE, 0o600, dir_fd=folder)
        try:
            pwrite_all(file, data, 0)
            part.missing_bytes = 0
            self._give_name(part, file, folder, name)
        finally:
            os.close(file)

    def _opened(self, part: _Part) -> int:
        """The file, open for writing; the one used longest ago is closed instead."""
        path = part.entry.path
        if part.fd < 0:
            folder_path, _ = split(path)
            folder = self._folders.enter(folder_path, make=True)
            flags = _OPEN
            if not part.draft:
                part.draft = draft_name()
                flags = _CREATE
            part.fd = os.open(part.draft, flags, 0o600, dir_fd=folder)
            if flags == _CREATE and part.missing_bytes < part.entry.size_bytes:
                os.ftruncate(part.fd, part.entry.size_bytes)
            if len(self._open) >= OPEN_FILES:
                _, oldest = self._open.popitem(last=False)
                self._let_go(oldest.fd)
                os.close(oldest.fd)
                oldest.fd = -1
        self._open[path] = part
        self._open.move_to_end(path)
        return part.fd

    def _name(self, part: _Part) -> None:
        """Gives a whole file its name."""
        folder_path, name = split(part.entry.path)
        file = self._opened(part)
        self._let_go(file)
        self._give_name(part, file, self._folders.enter(folder_path), name)
        os.close(file)
        part.fd = -1
        del self._open[part.entry.path]

    def _give_name(self, part: _Part, file: int, folder: int, name: str) -> None:
        os.fchmod(file, 0o755 if part.entry.executable else 0o644)
        mark(file)
        os.rename(part.draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        part.draft = ""
        self._laid.append((part.entry, stamp_of(os.fstat(file))))
        if part.entry.size_bytes >= LARGE_BYTES:
            self._syncer.begin(file)

    def _let_go(self, file: int) -> None:
        """Has what was written to an open file in the kernel."""
        if self._direct.writes(file):
            self._direct.end()

    def _complete(self, part: _Part) -> None:
        """Writes what the file has in common with what was written before."""
        if part.blank:
            self._name(part)
        for offset, digest in part.copies:
            self._write(part, offset, memoryview(self._written(self._uses.of(digest))))
        if part.missing_bytes:
            raise Missing("Bytes of a file did not arrive.", part.entry.path, "Fetch it again.")

    def _written(self, use: Use[_Part]) -> bytes:
        """The bytes of a chunk, from where it was written."""
        part = use.part
        if part.fd >= 0:
            self._let_go(part.fd)
            return os.pread(part.fd, use.size, use.offset)
        folder, name = split(part.entry.path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(part.draft or name, flags, dir_fd=self._folders.enter(folder))
        try:
            return os.pread(file, use.size, use.offset)
        finally:
            os.close(file)


def _runs(uses: Sequence[Use[_Part]], data: memoryview) -> Iterator[tuple[_Part, int, memoryview]]:
    """Pieces of chunks side by side, as long as they lie so in one file."""
    part: _Part | None = None
    offset = begin = at = 0
    for use in uses:
        if use.part is not part or use.offset != offset + (at - begin):
            if part:
                yield part, offset, data[begin:at]
            part, offset, begin = use.part, use.offset, at
        at += use.size
    if part:
        yield part, offset, data[begin:at]


def _choose(manifest: Manifest, prefix: str, target: Path) -> tuple[Path, Path, list[Entry]]:
    """The folder to write in, where the result is, and entries named from that folder."""
    if not prefix:
        return target, target, list(manifest.entries)
    for entry in manifest.entries:
        if entry.path == prefix and not isinstance(entry, FolderEntry):
            path = target / split(prefix)[1] if target.is_dir() else target
            return path.parent, path, [replace(entry, path=path.name)]
    below = f"{prefix}/"
    chosen = [
        replace(entry, path=entry.path.removeprefix(below))
        for entry in manifest.entries
        if entry.path.startswith(below)
    ]
    if not chosen and FolderEntry(prefix) not in manifest.entries and manifest.entries:
        raise Missing(f'There is no "{prefix}" in it.', "", "List what there is with `dstack ls`.")
    return target, target, chosen


def _leads_out(entry: Entry) -> bool:
    """Whether it is a link that stayed inside the whole tree only."""
    return isinstance(entry, LinkEntry) and bool(link_fault(entry.path, entry.target))


def _in_words(error: OSError, root: Path) -> MeshError:
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return Refused(
            f"The files do not fit into {root}.",
            f"{error.filename or root}: {error.strerror}.",
            "Choose an empty folder.",
        )
    return trouble(error, root)
