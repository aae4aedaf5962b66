"""The chunk store of a home: chunks in packs, an index, and manifests.

Promises: what `put` and `put_manifest` return from survives a loss of power. Bytes are written and
synced before the index names them, so a crash at any point leaves a valid store. Every read is
verified; wrong bytes are never returned. Once seen they are set aside, and brought again from a
`Source` where there is one.

Several processes share a folder: each writes packs of its own, and SQLite orders the rows. What is
said to be here stays for a while, and as long as a `session` lasts (`sessions`).
"""

import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from dstack_mesh.chunks.adopting import adopt_tails
from dstack_mesh.chunks.batch import Batch
from dstack_mesh.chunks.cache import FileCache
from dstack_mesh.chunks.checking import check_chunks
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.drafts import Drafts
from dstack_mesh.chunks.healing import Presence, open_index
from dstack_mesh.chunks.index import MANY, batches
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.mending import NoSource, Source, keep_evidence
from dstack_mesh.chunks.packs import (
    PACK_BYTES,
    Bytes,
    PackReader,
    PackWriter,
    Place,
    sync_folder,
)
from dstack_mesh.chunks.room import GIB, files_bytes, free_for_jobs, trouble
from dstack_mesh.chunks.runs import missing, side_by_side
from dstack_mesh.chunks.sessions import GRACE_SECONDS, Session
from dstack_mesh.chunks.shelf import Shelf
from dstack_mesh.faults import Busy, Damaged, MeshError, Missing, Refused
from dstack_mesh.ids import Digest

RUN_BYTES = 1 << 20
"""Chunks that lie side by side are read together up to this size."""

WEIGH_SECONDS = 5.0
"""How old what the store takes may be when it is held against the quota."""


class ChunkStore:
    """Chunks and manifests below one folder. Synchronous and thread-safe.

    Attributes:
        source: Where damaged chunks are brought from.
        healed: What became of it if its index had to be made again when it was opened.
        most_bytes: The quota; None for no limit but the disk's.
    """

    def __init__(
        self,
        folder: Path,
        pack_bytes: int = PACK_BYTES,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.folder = folder
        self.packs = folder / "packs"
        self.sessions = folder / "sessions"
        self.damaged = folder / "damaged"
        self.shelf = Shelf(folder, grace_seconds)
        self.grace_seconds = grace_seconds
        self.pack_bytes = pack_bytes
        writers = folder / "writers"
        parts = (self.packs, self.shelf.manifests, self.shelf.kept, self.sessions, self.damaged)
        try:
            _make_folders(folder, (*parts, writers))
        except OSError as error:
            raise Refused(f"Cannot make {folder}.", str(error)) from error
        self._presence = Presence(folder)
        try:
            self.index, self.healed = open_index(folder, self._presence)
            adopt_tails(self.packs, writers, self.index)
        except BaseException:
            self._presence.close()
            raise
        self._reader = PackReader(self.packs)
        self._writer = PackWriter(self.packs, writers, pack_bytes)
        self._writing = threading.Lock()
        self._mending = threading.Lock()
        self.cache = FileCache(folder / "index.sqlite")
        self.drafts = Drafts(folder / "drafts")
        self.source: Source = NoSource()
        self.most_bytes: int | None = None
        self._weighed = (-math.inf, 0)

    def session(self) -> Session:
        """While it lasts, and a grace before and after, what is said to be here stays.

        Raises:
            Busy: The disk is full.
        """
        return Session(self.sessions, self.grace_seconds)

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that are not here, each once, in order. The others stay for a while."""
        wanted = dict.fromkeys(digests)
        for asked in batches(list(wanted), MANY):
            for digest in self.index.promise(asked):
                del wanted[digest]
        return list(wanted)

    def put(self, chunks: Iterable[tuple[Digest, Bytes]]) -> None:
        """Keeps chunks; they are durable on return. Chunks that are here already cost nothing.

        Raises:
            Damaged: Bytes do not have their digest; nothing of that batch is kept.
            Busy: The disk is full.
        """
        batch = Batch(self)
        try:
            for digest, data in chunks:
                batch.add_foreign(digest, data)
            batch.commit()
        finally:
            batch.close()

    def get(self, digest: Digest) -> bytes:
        """A chunk, verified.

        Raises:
            Missing: It is not here.
            Damaged: Its bytes are wrong; it is missing from now on.
        """
        for _, data in self.read([digest]):
            return bytes(data)
        raise missing(digest)

    def read(self, digests: Sequence[Digest]) -> Iterator[tuple[Digest, memoryview]]:
        """Chunks in the order asked for, verified, read in as few pieces as they lie on disk.

        Raises:
            Missing: One is not here.
            Damaged: Bytes of one are wrong; it is missing from now on.
        """
        for run, data in self.read_runs(digests):
            view = memoryview(data)
            at = 0
            for digest, size in run:
                yield digest, view[at : at + size]
                at += size

    def read_runs(
        self, digests: Sequence[Digest], limit: int = RUN_BYTES
    ) -> Iterator[tuple[list[tuple[Digest, int]], bytes]]:
        """The same, several chunks at a time: their digests and sizes, and the bytes side by
        side."""
        waiting = iter(digests)
        while batch := list(islice(waiting, 4096)):
            places = self.index.locate(batch)
            if len(places) < len(batch):
                places |= self._bring([digest for digest in batch if digest not in places])
            for run in side_by_side(batch, places, limit):
                yield [(digest, place.length) for digest, place in run], self._read_run(run)

    def missing_manifest(self, digest: Digest) -> bool:
        """Whether a manifest is not here; one that is stays for a while."""
        return not self.shelf.has(digest)

    def put_manifest(self, encoded: bytes) -> Digest:
        """Keeps a manifest; it is durable on return.

        Raises:
            Invalid: It is not a canonical manifest, or says a wrong size of a chunk.
            Refused: Chunks that it names are not here.
        """
        digest = digest_of(encoded)
        if self.missing_manifest(digest):
            check_chunks(self.index, Manifest.decode(encoded))
            self.shelf.write(digest, encoded)
        return digest

    def put_tree(self, manifest: Manifest) -> Digest:
        """The same of one that was made here; errors as `put_manifest`."""
        digest = manifest.digest
        if self.missing_manifest(digest):
            check_chunks(self.index, manifest)
            self.shelf.write(digest, manifest.encode())
        return digest

    def get_manifest(self, digest: Digest) -> Manifest:
        """A manifest, verified.

        Raises:
            Missing: It is not here.
            Damaged: Its bytes are wrong, and nobody gives it again; it is missing from now on.
        """
        return Manifest.decode(self.get_encoded(digest))

    def read_file(self, digest: Digest, path: str, limit_bytes: int) -> bytes:
        """A small file of a tree.

        Raises:
            Missing: The tree, the file or a chunk is not here.
            Damaged: Bytes are wrong.
            Refused: The file is larger.
        """
        for entry in self.get_manifest(digest).entries:
            if isinstance(entry, FileEntry) and entry.path == path:
                if sum(entry.sizes) > limit_bytes:
                    why = f"It has {sum(entry.sizes):,} bytes, at most {limit_bytes:,} are read."
                    raise Refused(f"{path} is too large.", why, code="too-large")
                wanted = [entry.digests[at : at + 32] for at in range(0, len(entry.digests), 32)]
                return b"".join(bytes(self.get(Digest(each))) for each in wanted)
        raise Missing(f"There is no {path} in the tree.", digest.hex())

    def get_encoded(self, digest: Digest) -> bytes:
        """A manifest in its encoding, verified as `get_manifest` does. Its tree stays for a
        while."""
        self.shelf.has(digest)
        try:
            return self.shelf.read(digest)
        except (Damaged, Missing):
            encoded = self.mend_manifest(digest) if self.shelf.was_damaged(digest) else None
            if encoded is None:
                raise
            return encoded

    def size_bytes(self) -> int:
        """What packs and manifests take."""
        return files_bytes((self.packs, self.shelf.manifests))

    def check_quota(self) -> None:
        """Raises Busy if the store is as large as it may be. What it takes is looked up every few
        seconds."""
        if self.most_bytes is None:
            return
        at, size = self._weighed
        if time.monotonic() > at + WEIGH_SECONDS:
            size = self.size_bytes()
            self._weighed = (time.monotonic(), size)
        if size > self.most_bytes:
            raise Busy(
                "The chunk store of the machine is full.",
                f"It takes {size / GIB:.1f} GiB, and its owner allows {self.most_bytes / GIB:.1f}.",
                "Remove what is not needed there (`dstack-runner prune`), or allow more with"
                " --max-store.",
                "store-full",
            )

    def room_bytes(self) -> float:
        """What may still come from others: by the quota, and without the reserve of the disk."""
        most = math.inf if self.most_bytes is None else self.most_bytes - self.size_bytes()
        return max(0, min(free_for_jobs(self.folder), most))

    def keep(self, digest: Digest, owner: str) -> None:
        """Has a tree stay for an owner, as a run's id, until `let_go`. Durable on return."""
        self.shelf.keep(digest, owner)

    def let_go(self, owner: str) -> None:
        """What was kept for this owner need not stay any more."""
        self.shelf.let_go(owner)

    def close(self) -> None:
        """Lets go of all files. What was put is durable already."""
        with self._writing:
            self._writer.close()
        self._reader.close()
        self.index.close()
        self.cache.close()
        self._presence.close()

    def write(self, chunks: Sequence[tuple[Digest, Bytes]]) -> list[Place]:
        """Appends chunks without a promise; for `Batch`."""
        with self._writing:
            return self._writer.append(chunks)

    def commit(self, rows: Sequence[tuple[Digest, Place]]) -> None:
        """Makes appended bytes durable, then known; for `Batch`."""
        self.sync({place.pack for _, place in rows})
        self.index.add(rows)

    def sync(self, packs: set[str]) -> None:
        """Makes appended bytes durable."""
        with self._writing:
            self._writer.sync(packs)

    def rest(self, before: float) -> None:
        """Ends the pack that is written now if nothing was written since a moment, so that it can
        be tidied up."""
        with self._writing:
            self._writer.rest(before)

    def drop_pack(self, name: str) -> None:
        """Removes a pack that nothing refers to any more."""
        self._reader.forget(name)
        try:
            (self.packs / name).unlink(missing_ok=True)
        except OSError as error:
            raise trouble(error, self.packs) from error

    def verify(self, digest: Digest, place: Place) -> bytes:
        """A chunk of a place, verified; mended if it is damaged.

        Raises:
            Damaged: It is, and nobody gives it again.
            Missing: It is here no more.
        """
        return self._read_run([(digest, place)])

    def mend(self, digest: Digest) -> bytes | None:
        """Brings a chunk again that was damaged; None if nobody gives it now."""
        data = self.source.chunk(digest)
        if data is None or digest_of(data) != digest:
            return None
        # Who asked has the bytes, even if this disk does not take them.
        with suppress(MeshError):
            self.put([(digest, data)])
        return data

    def mend_manifest(self, digest: Digest) -> bytes | None:
        """Brings a manifest again that was damaged; None if nobody gives it now."""
        encoded = self.source.manifest(digest)
        if encoded is None or digest_of(encoded) != digest:
            return None
        with suppress(MeshError):
            self.shelf.write(digest, encoded)
        return encoded

    def damaged_among(self, run: list[tuple[Digest, Place]]) -> list[tuple[Digest, Place]]:
        """Those of chunks that lie side by side whose bytes are wrong."""
        try:
            self._read_verified(run)
        except Damaged:
            if len(run) == 1:
                return run
            return [one for part in run for one in self.damaged_among([part])]
        return []

    def _bring(self, lacking: Sequence[Digest]) -> dict[Digest, Place]:
        """Those of chunks that are not here which were damaged once and can be had now."""
        for digest in self.index.quarantined_among(lacking):
            if self.mend(digest) is None:
                break
        return self.index.locate(lacking)

    def _read_run(self, run: list[tuple[Digest, Place]]) -> bytes:
        try:
            return self._read_verified(run)
        except Damaged as error:
            if len(run) > 1:
                return b"".join(self._read_run([part]) for part in run)
            return self._read_again(*run[0], error)

    def _read_verified(self, run: list[tuple[Digest, Place]]) -> bytes:
        first, size = run[0][1], sum(place.length for _, place in run)
        data = self._reader.read(first.pack, first.offset, size)
        view = memoryview(data)
        at = 0
        for digest, place in run:
            end = at + place.length
            if digest_of(view[at:end]) != digest:
                raise Damaged(
                    f"A chunk in {self.packs / place.pack} is damaged.",
                    f"{digest.hex()} at {place.offset}.",
                    "It is set aside now and can be fetched from another peer.",
                )
            at = end
        return data

    def _read_again(self, digest: Digest, place: Place, damaged: Damaged) -> bytes:
        """A chunk that was not whole at a place: from where it lies by now, or from elsewhere."""
        with self._mending:
            now = self.index.locate([digest]).get(digest)
            if now == place:
                with suppress(MeshError):
                    data = self._reader.read(place.pack, place.offset, place.length)
                    keep_evidence(self.damaged, digest, data)
                self.index.quarantine(digest, place)
                data = self.mend(digest)
                if data is None:
                    raise damaged
                return data
        if now is None:
            raise missing(digest)
        return self._read_run([(digest, now)])


def _make_folders(folder: Path, parts: Sequence[Path]) -> None:
    """Makes what is not there, durably: a pack in a folder that a power cut takes is lost too."""
    if all(part.is_dir() for part in parts):
        return
    for part in (folder, *parts):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_folder(folder)
    sync_folder(folder.parent)
