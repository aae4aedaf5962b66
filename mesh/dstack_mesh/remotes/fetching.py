"""Brings trees from a remote: to our store, or straight into files.

Every chunk is verified by its hash; a pack that is missing or damaged is named. Spans of packs are
read by several threads, a few ahead of whoever writes them down.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dstack_mesh.chunks.batch import Batch
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import MANIFEST_BYTES, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Damaged, Missing
from dstack_mesh.ids import Digest
from dstack_mesh.remotes.crew import Crew
from dstack_mesh.remotes.known import Known
from dstack_mesh.remotes.learning import learn
from dstack_mesh.remotes.naming import INDEXES, manifest_key, pack_key
from dstack_mesh.remotes.packs import Sized, Span, spans
from dstack_mesh.remotes.port import NO_OBJECT, ObjectStore
from dstack_mesh.remotes.tally import Tally

if TYPE_CHECKING:
    from dstack_mesh.chunks.fetched import Fetched

SPAN_BYTES = 4 << 20
"""So much of a pack is read at once."""

GAP_BYTES = 256 << 10
"""Bytes between two wanted chunks that are read rather than asking twice: what a request costs."""

Piece = tuple[list[Sized], memoryview]
"""Verified chunks that lie side by side, and their bytes."""


class Fetcher:
    """Trees of one remote. For one thread at a time."""

    def __init__(self, objects: ObjectStore, known: Known, store: ChunkStore, crew: Crew) -> None:
        self._objects = objects
        self._known = known
        self._store = store
        self._crew = crew

    def manifest(self, digest: Digest) -> Manifest:
        """What a tree holds, from our store or from there.

        Raises:
            Missing: It is not there.
            Damaged: It is not what it is called.
        """
        return Manifest.decode(self._encoded(digest))

    def fetch_tree(self, digest: Digest, tally: Tally) -> int:
        """Brings a tree to our store, where it is durable on return; returns bytes received.

        Raises:
            Missing: It is not there.
            Damaged: A pack is missing there or damaged; it is named.
        """
        if not self._store.missing_manifest(digest):
            return 0
        encoded = self._encoded(digest)
        received = self._receive(encoded, tally)
        self._store.put_manifest(encoded)
        return received

    def _receive(self, encoded: bytes, tally: Tally) -> int:
        """Has the chunks of a tree in our store; returns the bytes that came."""
        lacking, missing = self._lacking(encoded, tally)
        batch = Batch(self._store)
        try:
            for chunks, data in self._read(lacking, tally):
                at = 0
                for chunk, size in chunks:
                    batch.add(chunk, data[at : at + size])
                    at += size
        finally:
            # What arrived before a failure need not travel again.
            batch.commit()
        return missing

    def _lacking(self, encoded: bytes, tally: Tally) -> tuple[list[Digest], int]:
        """Chunks of a tree that our store lacks, and their bytes.

        What was made of the list of files is let go: of 100,000 files it is 60 MB.
        """
        manifest = Manifest.decode(encoded)
        sizes = manifest.chunk_sizes()
        lacking = self._store.missing(sizes)
        total, missing = sum(sizes.values()), sum(sizes[chunk] for chunk in lacking)
        tally.found(total, total - missing, manifest.files)
        return lacking, missing

    def fetch_into(
        self, digest: Digest, target: Path, prefix: str, told: Callable[[int], None], tally: Tally
    ) -> "Fetched":
        """Brings a tree, or what is below `prefix`, straight into files; durable on return. What
        one that broke off brought, or that was killed, need not come again.

        Args:
            target: The folder to lay a folder out in. For a file, its new path or a folder for it.
            told: Called with the bytes written each time some were.

        Raises:
            Missing: It is not there, or has nothing of that name.
            Damaged: A pack is missing there or damaged; it is named.
        """
        # Here, because a push lays nothing out.
        from dstack_mesh.chunks.receiving import Receiver
        from dstack_mesh.chunks.rescuing import rescue

        keeping = self._store.cache, self._store.drafts.of(digest)
        receiver = Receiver(self.manifest(digest), target, prefix, *keeping)
        try:
            told(receiver.kept_bytes)
            receiver.reuse(told)
            wanted = receiver.wanted
            lacking = self._store.missing(wanted)
            away = set(lacking)
            here = [chunk for chunk in wanted if chunk not in away]
            for run, data in self._store.read_runs(here):
                receiver.take([chunk for chunk, _ in run], memoryview(data))
                told(len(data))
            for chunks, view in self._read(lacking, tally):
                receiver.take([chunk for chunk, _ in chunks], view)
                told(len(view))
            return receiver.finish(receiver.wanted_bytes(lacking))
        except BaseException:
            rescue(receiver, self._store)
            raise
        finally:
            receiver.close()

    def _encoded(self, digest: Digest) -> bytes:
        if not self._store.missing_manifest(digest):
            return self._store.get_encoded(digest)
        try:
            encoded = self._objects.get(manifest_key(digest), 0, MANIFEST_BYTES + 1)
        except Missing as missing:
            if missing.code != NO_OBJECT:
                raise
            where = self._objects.where
            why = f"It has no {manifest_key(digest)}."
            raise Missing(f"There is no such list of files in {where}.", why) from missing
        if digest_of(encoded) != digest:
            raise self._damaged(manifest_key(digest), "its bytes are not what the name says")
        return encoded

    def _read(self, digests: Sequence[Digest], tally: Tally) -> Iterator[Piece]:
        """Chunks in about the order asked for, verified."""
        if not digests:
            return
        if self._known.absent(digests):
            learn(self._objects, self._known, self._crew)
        absent = self._known.absent(digests)
        if absent:
            raise self._damaged(
                INDEXES, f"{len(absent):,} chunks are in no pack, as {absent[0].hex()}"
            )
        wanted = spans(self._known.located(digests), SPAN_BYTES, GAP_BYTES)
        for pieces in self._crew.each(self._span, wanted):
            for piece in pieces:
                yield piece
                tally.moved(len(piece[1]))

    def _span(self, span: Span) -> list[Piece]:
        key = pack_key(span.pack)
        try:
            data = memoryview(self._objects.get(key, span.begin, span.end - span.begin))
        except Missing as missing:
            if missing.code != NO_OBJECT:
                raise
            raise self._damaged(key, "the pack is missing") from missing
        pieces: list[Piece] = []
        for chunks, begin, end in _side_by_side(span):
            view = data[begin - span.begin : end - span.begin]
            self._verify(key, chunks, view, begin)
            pieces.append((chunks, view))
        return pieces

    def _verify(self, key: str, chunks: Sequence[Sized], data: memoryview, begin: int) -> None:
        at = 0
        for chunk, size in chunks:
            if digest_of(data[at : at + size]) != chunk:
                raise self._damaged(key, f"the chunk {chunk.hex()} at {begin + at:,} is wrong")
            at += size

    def _damaged(self, key: str, why: str) -> Damaged:
        return Damaged(
            f"{self._objects.where} is damaged.",
            f"{key}: {why}.",
            "dstack push --again RUN, from a machine that has the run's bytes",
            code="remote-damaged",
        )


def _side_by_side(span: Span) -> Iterator[tuple[list[Sized], int, int]]:
    """Chunks of a span without a gap between them, with where they begin and end in the pack."""
    run: list[Sized] = []
    begin = end = span.begin
    for chunk, place in span.chunks:
        if run and place.offset != end:
            yield run, begin, end
            run = []
        if not run:
            begin = place.offset
        run.append((chunk, place.length))
        end = place.offset + place.length
    if run:
        yield run, begin, end
