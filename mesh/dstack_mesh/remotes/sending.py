"""Sends trees to a remote, packs with missing chunks alone, in the order that a crash may cut.

Promise: a tree's manifest is there only if all its chunks are. What broke off is begun again with
what is missing then; packs that are there already are not sent twice. Memory: a part or two for
each thread, whatever the size of a tree.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Forbidden, Missing
from dstack_mesh.ids import Digest
from dstack_mesh.remotes.crew import Crew
from dstack_mesh.remotes.fetching import Fetcher
from dstack_mesh.remotes.known import Known
from dstack_mesh.remotes.learning import learn, packs_there
from dstack_mesh.remotes.naming import PACKS, index_key, manifest_key, pack_key
from dstack_mesh.remotes.packs import PackIndex, cut
from dstack_mesh.remotes.port import ObjectStore
from dstack_mesh.remotes.probe import check_remote
from dstack_mesh.remotes.tally import Tally

PART_BYTES = 6 << 20
"""A pack travels in pieces of this size; S3 takes no smaller ones than 5 MiB. Larger: fewer
requests; smaller: less memory, of which each thread needs twice this."""

STALE = timedelta(days=1)
"""A piece of a pack that is older belongs to a process that died: none takes longer than that."""


def in_parts(store: ChunkStore, chunks: Sequence[Digest]) -> Iterator[bytes]:
    """Chunks of a store one after the other, in parts of at least `PART_BYTES` but for the last.

    Nothing of a part is held while the next one is made, if whoever takes it lets go of it.
    """
    held: list[bytes] = []
    size_bytes = 0
    for _, data in store.read_runs(chunks):
        held.append(data)
        size_bytes += len(data)
        if size_bytes >= PART_BYTES:
            part, held, size_bytes = b"".join(held), [], 0
            yield part
            del part
    if held:
        yield b"".join(held)


class Sender:
    """Trees on their way to one remote. For one thread at a time."""

    def __init__(self, objects: ObjectStore, known: Known, store: ChunkStore, crew: Crew) -> None:
        self._objects = objects
        self._known = known
        self._store = store
        self._crew = crew
        self._fetcher = Fetcher(objects, known, store, crew)
        self._packs: dict[Digest, int] = {}

    def begin(self) -> None:
        """Looks what is there, once before anything is sent.

        Raises:
            Refused: The place cannot be a remote.
        """
        check_remote(self._objects)
        with suppress(Forbidden):  # who may write and not remove can still push
            self._objects.sweep(PACKS, datetime.now(UTC) - STALE)
        self._packs = packs_there(self._objects)
        learn(self._objects, self._known, self._crew)
        listed = self._known.packs().items()
        self._known.forget([name for name, size in listed if self._packs.get(name) != size])

    def has_tree(self, digest: Digest) -> bool:
        """Whether a tree is there, all its chunks among it; after `begin`."""
        try:
            manifest = self._fetcher.manifest(digest)
        except Missing:
            return False
        return not self._known.absent(manifest.chunk_digests()) and self._has_manifest(digest)

    def send_tree(self, digest: Digest, tally: Tally, again: bool = False) -> None:
        """Sends a tree of our store; after `begin`. On return it is there for good.

        Args:
            again: Also what is there already, over what is there: repairs what was damaged there.

        Raises:
            Missing: Our store has not the tree.
        """
        sizes, files = self._sizes(digest)
        lacking = self._known.absent(sizes)
        total = sum(sizes.values())
        missing = sum(sizes[chunk] for chunk in lacking)
        tally.found(total, 0 if again else total - missing, files)
        if not lacking and not again and self._has_manifest(digest):
            return
        if again:
            self._overwrite(sizes, tally)
        packs = cut((chunk, sizes[chunk]) for chunk in lacking)
        for _ in self._crew.each(lambda index: self._send_pack(index, tally, again), packs):
            pass
        encoded = self._store.get_encoded(digest)
        if not self._objects.create(manifest_key(digest), encoded) and again:
            self._objects.put(manifest_key(digest), encoded)

    def _sizes(self, digest: Digest) -> tuple[dict[Digest, int], int]:
        """The chunks of a tree and how many files it has; the list itself is let go."""
        manifest = self._store.get_manifest(digest)
        return manifest.chunk_sizes(), manifest.files

    def _has_manifest(self, digest: Digest) -> bool:
        found = self._objects.listing(manifest_key(digest))
        return any(one.key == manifest_key(digest) for one in found)

    def _send_pack(self, index: PackIndex, tally: Tally, again: bool) -> None:
        """Sends the bytes, then the list of them that makes them count."""
        tally.check()
        name = index.name
        if again or self._packs.get(name) != index.size_bytes:
            self._send_bytes(name, index, tally)
        else:
            tally.found(0, index.size_bytes)
        self._objects.put(index_key(name), index.encode())
        self._known.learn(name, index)

    def _send_bytes(self, name: Digest, index: PackIndex, tally: Tally) -> None:
        parts = self._parts(index, tally)
        if index.size_bytes > PART_BYTES:
            self._objects.put_parts(pack_key(name), parts)
        else:
            self._objects.put(pack_key(name), b"".join(parts))

    def _parts(self, index: PackIndex, tally: Tally) -> Iterator[bytes]:
        """The bytes of a pack in pieces that may travel one by one; counted once they have."""
        for part in in_parts(self._store, [chunk for chunk, _ in index.chunks]):
            size_bytes = len(part)
            yield part
            del part
            tally.moved(size_bytes)

    def _overwrite(self, wanted: Iterable[Digest], tally: Tally) -> None:
        """Sends packs again that hold something of a tree, where we have all that is in them."""
        packs = {place.pack for _, place in self._known.located(wanted)}
        ours: list[PackIndex] = []
        for name in sorted(packs):
            index = self._known.index(name)
            if not self._store.missing([chunk for chunk, _ in index.chunks]):
                ours.append(index)
        for _ in self._crew.each(lambda index: self._send_pack(index, tally, True), ours):
            pass
