"""Writes chunks straight into the files of a tree, as they arrive.

Rules: names are opened as `laying` does; each chunk is verified and written to the place of its
first use, its other uses are copied from there at the end; holes stay holes; a file gets its name
once it is whole; a file that was laid here before and did not change since stays as it is, and one
that did gives what the new one has in common with it. What was verified is in the kernel before
more than a megabyte follows, so a kill takes no more, and `drafts` finds it again.
On return from `finish` everything survives a loss of power.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dstack_mesh.chunks.cache import Cut, FileCache, Stamp
from dstack_mesh.chunks.chosen import choose, leads_out
from dstack_mesh.chunks.digest import digest_of, each_digest
from dstack_mesh.chunks.direct import DIRECT_BYTES, DirectWriter
from dstack_mesh.chunks.drafts import Drafts, create_draft, draft_left, draft_of, room_taken
from dstack_mesh.chunks.fetched import Fetched
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.former import former_chunks
from dstack_mesh.chunks.holes import is_hole
from dstack_mesh.chunks.laying import lay_link, pwrite_all
from dstack_mesh.chunks.manifest import FileEntry, FolderEntry, Manifest
from dstack_mesh.chunks.part import Part
from dstack_mesh.chunks.reading import stamp_of
from dstack_mesh.chunks.room import check_room, trouble
from dstack_mesh.chunks.syncing import LARGE_BYTES, Syncer
from dstack_mesh.chunks.unchanged import lying, mark, verified
from dstack_mesh.chunks.uses import Use, Uses, runs
from dstack_mesh.faults import Damaged, MeshError, Missing, Refused
from dstack_mesh.ids import Digest

TAKE_BYTES = 256 << 10
"""Chunks are written once so many bytes of them are verified; with what `direct` gathers that is
less than 1 MiB."""

OPEN_FILES = 32
"""Files that are open for writing at a time."""

SYNC_BYTES = 64 << 20
"""A large file is synced each time this much of it was written."""


class Receiver:
    """The files of a manifest, or of what lies below one of its paths, on their way to disk.

    For one thread at a time. Call `finish` at the end, and `close` in any case: it removes what is
    not whole. Every method raises Busy if the disk is full and Refused if a name is in the way.
    """

    def __init__(
        self,
        manifest: Manifest,
        target: Path,
        prefix: str = "",
        cache: FileCache | None = None,
        drafts: Drafts | None = None,
    ) -> None:
        """Makes the folder and plans; no file yet.

        Args:
            target: The folder to lay a folder out in. For a file, its new path or a folder for it.
            prefix: A file or folder of the manifest; "" is the whole tree.
            cache: Remembers what was laid; without, everything is laid anew.
            drafts: Has who was killed go on.

        Raises:
            Missing: The manifest has nothing of that name.
            Busy: There is not enough room on the disk.
        """
        self._root, self._path, entries = choose(manifest, prefix.strip("/"), target)
        self._uses: Uses[Part] = Uses()
        self._open: OrderedDict[str, Part] = OrderedDict()
        self._cache = cache
        self._laid: list[tuple[FileEntry, Stamp]] = []
        self._found: list[tuple[FileEntry, Stamp | None]] = []
        files = [entry for entry in entries if isinstance(entry, FileEntry)]
        rest = [entry for entry in entries if not isinstance(entry, FileEntry)]
        self._rest = [entry for entry in rest if not leads_out(entry)]
        self._left_out = tuple(entry.path for entry in rest if leads_out(entry))
        self._files, self._size = len(files), sum(entry.size_bytes for entry in files)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._folders = Folders(self._root)
        except OSError as error:
            raise _in_words(error, self._root) from error
        try:
            self._lying = lying(self._folders, files, cache)
            same = self._lying.same
            self._parts = [self._plan(entry) for entry in files if entry.path not in same]
            self._here = sum(entry.size_bytes for entry in files if entry.path in same)
            lacking = sum(part.missing_bytes for part in self._parts)
            self.kept_bytes = self._size - lacking
            self._goes_on = drafts is not None and drafts.broke_off(self._path)
            taken = room_taken(self._folders, files) if self._goes_on else 0
            check_room(self._root, lacking - taken)
            self._journal = drafts.begin(self._root, self._path) if drafts else None
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
        """Takes what lies there and is not wanted any more then: files that are whole, drafts of
        who was killed, and what files that are to be replaced have of the new ones.

        Args:
            told: Called with the bytes written each time some were.
        """

        def found(size_bytes: int) -> None:
            self._here += size_bytes
            told(size_bytes)

        for part in self._parts:
            path = part.entry.path
            lies = path in self._lying.others
            if part.blank or (lies and self._found_whole(part, found)):
                continue
            if self._goes_on:
                self._go_on_with(part, found)
            if not lies:
                continue
            for digests, data in former_chunks(self._folders, path, self._cache, self._uses.claim):
                self._uses.have(digests)
                self._put([self._uses.of(digest) for digest in digests], data)
                found(len(data))

    def take(self, digests: Sequence[Digest], data: memoryview) -> None:
        """Verifies and writes chunks that lie side by side in `data`.

        Raises:
            Damaged: A chunk is not what was wanted.
        """
        at = begin = 0
        uses: list[Use[Part]] = []
        for digest in digests:
            use = self._uses.find(digest)
            if use is None or digest_of(data[at : at + use.size]) != digest:
                raise Damaged("A chunk arrived damaged.", digest.hex(), "Fetch it again.")
            at += use.size
            uses.append(use)
            if at - begin >= TAKE_BYTES:
                self._put(uses, data[begin:at])
                uses, begin = [], at
        self._put(uses, data[begin:at])

    def _put(self, uses: Sequence[Use[Part]], data: memoryview) -> None:
        try:
            for part, offset, piece in runs(uses, data):
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
        if self._journal:
            self._journal.finish()
        how_much = (self._files, self._size, received_bytes, self._here)
        return Fetched(*how_much, self._path, self._left_out)

    def settle(self) -> None:
        """Makes the files that are whole by now durable, and known to who comes again."""
        entries = [entry for entry, _ in self._laid]
        large = {entry.path for entry in entries if entry.size_bytes >= LARGE_BYTES}
        small = [entry.path for entry in entries if entry.path not in large]
        small += [entry.path for entry, _ in self._found]
        try:
            self._syncer.finish(self._folders, large, small)
        except OSError as error:
            raise _in_words(error, self._root) from error
        known = [(at, entry) for entry, at in (*self._laid, *self._found) if at]
        if self._cache and known:
            self._cache.remember((at, Cut(entry.sizes, entry.digests)) for at, entry in known)

    def rescued(self) -> Iterator[tuple[Digest, bytes]]:
        """Chunks in files that are not whole and go with `close`, verified; what files had that
        stay is there still."""
        over: set[str] = set()
        for digest in self._uses.perhaps_written:
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
        if self._journal:
            self._journal.close()
        self._syncer.close()
        self._folders.close()

    def _found_whole(self, part: Part, told: Callable[[int], None]) -> bool:
        """Whether the file lies there as it is to be, and so stays."""
        now = time.time_ns()
        stamp = verified(self._folders, part.entry)
        if stamp is None:
            return False
        for digest in each_digest(part.entry.digests):
            use = self._uses.find(digest)
            if use and use.part is part:
                self._uses.have([digest])
        # Of a file that was written a moment ago the stamp says too little to be remembered.
        self._found.append((part.entry, stamp if stamp.settled(now) else None))
        told(part.missing_bytes)
        part.copies, part.missing_bytes = [], 0
        return True

    def _go_on_with(self, part: Part, told: Callable[[int], None]) -> None:
        """Takes over the draft of a file that somebody left who was killed."""
        folder, _ = split(part.entry.path)
        try:
            left = draft_left(self._folders.enter(folder), part.entry) if self._journal else None
        except OSError:  # there is no such folder, most likely
            return
        if not self._journal or left is None:
            return
        file, there = left
        self._hold(part, draft_of(part.entry), file)
        self._journal.note(folder, part.draft)
        offset = 0
        for (digest, size), here in zip(part.entry.chunks(), there, strict=True):
            use = self._uses.find(digest)
            if here and use and use.part is part and use.offset == offset:
                self._uses.found(digest)
                part.missing_bytes -= size
                told(size)
            offset += size
        if part.missing_bytes == 0:
            self._name(part)

    def _plan(self, entry: FileEntry) -> Part:
        part = Part(entry, entry.size_bytes, entry.size_bytes >= DIRECT_BYTES)
        offset = 0
        for digest, size in entry.chunks():
            if is_hole(digest, size):
                part.missing_bytes -= size
            elif not self._uses.add(digest, part, offset, size):
                part.copies.append((offset, digest))
            offset += size
        part.blank = part.missing_bytes == 0
        return part

    def _write(self, part: Part, offset: int, piece: memoryview) -> None:
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

    def _write_whole(self, part: Part, data: memoryview) -> None:
        """The same of all of a file, which most files of most trees are."""
        folder_path, name = split(part.entry.path)
        folder = self._folders.enter(folder_path, make=True)
        part.draft, file = create_draft(folder, part.entry, self._journal)
        try:
            pwrite_all(file, data, 0)
            part.missing_bytes = 0
            self._give_name(part, file, folder, name)
        finally:
            os.close(file)

    def _opened(self, part: Part) -> int:
        """The file, open for writing; the one used longest ago is closed instead."""
        if part.fd >= 0:
            self._open.move_to_end(part.entry.path)
            return part.fd
        folder_path, _ = split(part.entry.path)
        folder = self._folders.enter(folder_path, make=True)
        if part.draft:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            return self._hold(part, part.draft, os.open(part.draft, flags, dir_fd=folder))
        name, file = create_draft(folder, part.entry, self._journal)
        if part.missing_bytes < part.entry.size_bytes:
            os.ftruncate(file, part.entry.size_bytes)
        return self._hold(part, name, file)

    def _hold(self, part: Part, name: str, file: int) -> int:
        """The open draft is that of a part from now on."""
        part.draft, part.fd = name, file
        if len(self._open) >= OPEN_FILES:
            _, oldest = self._open.popitem(last=False)
            self._let_go(oldest.fd)
            os.close(oldest.fd)
            oldest.fd = -1
        self._open[part.entry.path] = part
        return file

    def _name(self, part: Part) -> None:
        """Gives a whole file its name."""
        folder_path, name = split(part.entry.path)
        file = self._opened(part)
        self._let_go(file)
        self._give_name(part, file, self._folders.enter(folder_path), name)
        os.close(file)
        part.fd = -1
        del self._open[part.entry.path]

    def _give_name(self, part: Part, file: int, folder: int, name: str) -> None:
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

    def _complete(self, part: Part) -> None:
        """Writes what the file has in common with what was written before."""
        if part.blank:
            self._name(part)
        for offset, digest in part.copies:
            self._write(part, offset, memoryview(self._written(self._uses.of(digest))))
        if part.missing_bytes:
            raise Missing("Bytes of a file did not arrive.", part.entry.path, "Fetch it again.")

    def _written(self, use: Use[Part]) -> bytes:
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


def _in_words(error: OSError, root: Path) -> MeshError:
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return Refused(
            f"The files do not fit into {root}.",
            f"{error.filename or root}: {error.strerror}.",
            "Choose an empty folder.",
        )
    return trouble(error, root)
