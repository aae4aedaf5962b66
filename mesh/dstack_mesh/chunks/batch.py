"""Gathers chunks for a store, so that a few long writes and syncs bring many of them."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.packs import Bytes, Place
from dstack_mesh.chunks.sessions import Session
from dstack_mesh.faults import Damaged
from dstack_mesh.ids import Digest

WRITE_BYTES = 4 << 20
"""Chunks are gathered to this many bytes before they are written."""

FOREIGN_BYTES = 1 << 20
"""Chunks from elsewhere are written after this many bytes: what a kill takes of them travels
again."""

COMMIT_BYTES = 256 << 20
"""Chunks become durable at the latest after this many bytes. Larger: fewer syncs; smaller: less is
lost."""


COMMIT_CHUNKS = 16_384
"""…or after so many, as many as make that size where files are large: each takes memory."""


class Shelving(Protocol):
    """What a batch asks of its store."""

    def session(self) -> Session:
        """While it lasts, what is said to be here stays."""
        ...

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that are not here."""
        ...

    def write(self, chunks: Sequence[tuple[Digest, Bytes]]) -> list[Place]:
        """Appends chunks without a promise."""
        ...

    def commit(self, rows: Sequence[tuple[Digest, Place]]) -> None:
        """Makes appended chunks durable, then known."""
        ...


class Batch:
    """Chunks on their way into a store. For one thread.

    Nothing is promised before `commit`; a batch that is dropped leaves bytes that nobody refers to.
    What it found here stays as long as it exists. The data of a chunk must keep its value until the
    next `flush`. `written_bytes` counts what was not here before.
    """

    def __init__(self, store: Shelving) -> None:
        self._store = store
        self._waiting: dict[Digest, Bytes] = {}
        self._waiting_bytes = 0
        self._rows: dict[Digest, Place] = {}
        self._row_bytes = 0
        self.written_bytes = 0
        self._session: Session | None = None

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
        if self._waiting_bytes >= FOREIGN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what was added, so that its buffers may be used again."""
        if self._session is None:
            self._session = self._store.session()
        lacking = self._store.missing(self._waiting)
        chunks = [(digest, self._waiting[digest]) for digest in lacking]
        self._waiting, self._waiting_bytes = {}, 0
        if chunks:
            places = self._store.write(chunks)
            self._rows.update(zip(lacking, places, strict=True))
            size = sum(len(data) for _, data in chunks)
            self._row_bytes += size
            self.written_bytes += size
            if self._row_bytes >= COMMIT_BYTES or len(self._rows) >= COMMIT_CHUNKS:
                self._commit_rows()

    def commit(self) -> None:
        """Returns once everything added is durable and can be read."""
        self.flush()
        self._commit_rows()

    def end(self) -> None:
        """Commits what came so far, and closes whether the disk takes it or not."""
        try:
            self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """What was found here need not stay for its sake any more."""
        if self._session is not None:
            self._session.close()

    def _commit_rows(self) -> None:
        if self._rows:
            self._store.commit(list(self._rows.items()))
        self._rows, self._row_bytes = {}, 0
