"""The chunk store of a home: chunks in packs, an index, and manifests.

Promises: what `put` and `put_manifest` return from survives a loss of power. Bytes are written and
synced before the index names them, so a crash at any point leaves a valid store. Every read is
verified; wrong bytes are never returned, and once seen they are forgotten, so that they can be
brought again.

Several processes share a folder: each writes packs of its own, and SQLite orders the rows.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from dstack_mesh.chunks.cache import FileCache
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.index import Index
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.packs import PACK_BYTES, Bytes, PackReader, PackWriter, Place
from dstack_mesh.chunks.room import trouble
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged, Invalid, Missing, Refused
from dstack_mesh.ids import Digest

WRITE_BYTES = 4 << 20
"""Chunks are gathered to this many bytes before they are written."""

COMMIT_BYTES = 256 << 20
"""Chunks become durable at the latest after this many bytes. Larger: fewer syncs; smaller: less is
lost."""

RUN_BYTES = 1 << 20
"""Chunks that lie side by side are read together up to this size."""


class ChunkStore:
    """Chunks and manifests below one folder. Synchronous and thread-safe."""

    def __init__(self, folder: Path, pack_bytes: int = PACK_BYTES) -> None:
        self.folder = folder
        self._packs = folder / "packs"
        self._manifests = folder / "manifests"
        try:
            for part in (folder, self._packs, self._manifests):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"Cannot make {folder}.", str(error)) from error
        self._index = Index(folder / "index.sqlite")
        self._reader = PackReader(self._packs)
        self._writer = PackWriter(self._packs, pack_bytes)
        self._writing = threading.Lock()
        self.cache = FileCache(folder / "index.sqlite")

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that are not here, each once, in order."""
        wanted = list(dict.fromkeys(digests))
        present = self._index.present(wanted)
        return [digest for digest in wanted if digest not in present]

    def put(self, chunks: Iterable[tuple[Digest, Bytes]]) -> None:
        """Keeps chunks; they are durable on return. Chunks that are here already cost nothing.

        Raises:
            Damaged: Bytes do not have their digest; nothing of that batch is kept.
            Busy: The disk is full.
        """
        batch = Batch(self)
        for digest, data in chunks:
            batch.add_foreign(digest, data)
        batch.commit()

    def get(self, digest: Digest) -> bytes:
        """A chunk, verified.

        Raises:
            Missing: It is not here.
            Damaged: Its bytes are wrong; it is missing from now on.
        """
        for _, data in self.read([digest]):
            return bytes(data)
        raise _missing(digest)

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
            places = self._index.locate(batch)
            for run in _runs(batch, places, limit):
                yield [(digest, place.length) for digest, place in run], self._read_run(run)

    def missing_manifest(self, digest: Digest) -> bool:
        """Whether a manifest is not here."""
        return not self._manifest_path(digest).exists()

    def put_manifest(self, encoded: bytes) -> Digest:
        """Keeps a manifest; it is durable on return.

        Raises:
            Invalid: It is not a canonical manifest, or says a wrong size of a chunk.
            Refused: Chunks that it names are not here.
        """
        digest = digest_of(encoded)
        if self.missing_manifest(digest):
            self._check_chunks(Manifest.decode(encoded))
            self._write_manifest(digest, encoded)
        return digest

    def get_manifest(self, digest: Digest) -> Manifest:
        """A manifest, verified.

        Raises:
            Missing: It is not here.
            Damaged: Its bytes are wrong; it is missing from now on.
        """
        return Manifest.decode(self.get_encoded(digest))

    def get_encoded(self, digest: Digest) -> bytes:
        """A manifest in its encoding, verified as `get_manifest` does."""
        path = self._manifest_path(digest)
        try:
            encoded = path.read_bytes()
        except FileNotFoundError as error:
            raise Missing("There is no such list of files here.", digest.hex()) from error
        except OSError as error:
            raise Damaged(f"The list of files {path} cannot be read.", str(error)) from error
        if digest_of(encoded) != digest:
            with suppress(FileNotFoundError):
                path.rename(path.with_suffix(".damaged"))
            raise Damaged(f"The list of files {path} is damaged.", "", "Fetch it again.")
        return encoded

    def close(self) -> None:
        """Lets go of all files. What was put is durable already."""
        with self._writing:
            self._writer.close()
        self._reader.close()
        self._index.close()
        self.cache.close()

    def write(self, chunks: Sequence[Bytes]) -> list[Place]:
        """Appends bytes without a promise; for `Batch`."""
        with self._writing:
            return self._writer.append(chunks)

    def commit(self, rows: Sequence[tuple[Digest, Place]]) -> None:
        """Makes appended bytes durable, then known; for `Batch`."""
        with self._writing:
            self._writer.sync({place.pack for _, place in rows})
        self._index.add(rows)

    def _read_run(self, run: list[tuple[Digest, Place]]) -> bytes:
        first, size = run[0][1], sum(place.length for _, place in run)
        try:
            data = self._reader.read(first.pack, first.offset, size)
        except Damaged:
            if len(run) == 1:
                self._index.quarantine(run[0][0])
                raise
            return b"".join(self._read_run([part]) for part in run)
        view = memoryview(data)
        at = 0
        for digest, place in run:
            end = at + place.length
            if digest_of(view[at:end]) != digest:
                self._index.quarantine(digest)
                raise Damaged(
                    f"A chunk in {self._packs / place.pack} is damaged.",
                    f"{digest.hex()} at {place.offset}.",
                    "It is forgotten now and can be fetched from another peer.",
                )
            at = end
        return data

    def _check_chunks(self, manifest: Manifest) -> None:
        sizes = manifest.chunk_sizes()
        places = self._index.locate(sizes)
        for digest, size in sizes.items():
            place = places.get(digest)
            if place is None:
                raise Refused(
                    "A list of files came before its bytes.",
                    f"{len(sizes) - len(places):,} chunks are missing, as {digest.hex()}.",
                )
            if place.length != size:
                raise Invalid(
                    "A list of files says a wrong size.",
                    f"{digest.hex()} has {place.length:,} bytes, not {size:,}.",
                )

    def _manifest_path(self, digest: Digest) -> Path:
        return self._manifests / digest.hex()

    def _write_manifest(self, digest: Digest, encoded: bytes) -> None:
        try:
            write_durably(self._manifest_path(digest), encoded)
        except OSError as error:
            raise trouble(error, self.folder) from error


class Batch:
    """Chunks on their way into a store. For one thread.

    Nothing is promised before `commit`; a batch that is dropped leaves bytes that nobody refers to.
    The data of a chunk must keep its value until the next `flush`. `written_bytes` counts what was
    not here before.
    """

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._waiting: dict[Digest, Bytes] = {}
        self._waiting_bytes = 0
        self._rows: dict[Digest, Place] = {}
        self._row_bytes = 0
        self.written_bytes = 0

    def add(self, digest: Digest, data: Bytes) -> None:
        """Takes a chunk whose digest was computed from these very bytes."""
        if digest not in self._waiting and digest not in self._rows:
            self._waiting[digest] = data
            self._waiting_bytes += len(data)
            if self._waiting_bytes >= WRITE_BYTES:
                self.flush()

    def add_foreign(self, digest: Digest, data: Bytes) -> None:
        """Takes a chunk that somebody else has named. Raises Damaged if it is not what it is
        called."""
        if digest_of(data) != digest:
            raise Damaged(
                "A chunk is damaged.", f"It is called {digest.hex()} and is not.", "Send it again."
            )
        self.add(digest, data)

    def flush(self) -> None:
        """Writes what was added, so that its buffers may be used again."""
        lacking = self._store.missing(self._waiting)
        chunks = [self._waiting[digest] for digest in lacking]
        self._waiting, self._waiting_bytes = {}, 0
        if chunks:
            places = self._store.write(chunks)
            self._rows.update(zip(lacking, places, strict=True))
            size = sum(map(len, chunks))
            self._row_bytes += size
            self.written_bytes += size
            if self._row_bytes >= COMMIT_BYTES:
                self._commit_rows()

    def commit(self) -> None:
        """Returns once everything added is durable and can be read."""
        self.flush()
        self._commit_rows()

    def _commit_rows(self) -> None:
        if self._rows:
            self._store.commit(list(self._rows.items()))
        self._rows, self._row_bytes = {}, 0


def _runs(
    digests: Sequence[Digest], places: dict[Digest, Place], limit: int
) -> Iterator[list[tuple[Digest, Place]]]:
    """Groups chunks that lie side by side, in the order asked for."""
    run: list[tuple[Digest, Place]] = []
    end = 0
    size = 0
    for digest in digests:
        place = places.get(digest)
        if place is None:
            raise _missing(digest)
        apart = not run or place.pack != run[0][1].pack or place.offset != end
        if apart or size + place.length > limit:
            if run:
                yield run
            run, size = [], 0
        run.append((digest, place))
        end = place.offset + place.length
        size += place.length
    if run:
        yield run


def _missing(digest: Digest) -> Missing:
    return Missing("A chunk is not here.", digest.hex(), "Fetch it from another peer.")
