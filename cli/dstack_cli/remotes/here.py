"""What was pulled to this home: runs that no agent ran here, whose bytes lie in our own store."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dstack_cli.remotes.places import pulled_folder
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest
from dstack_scheduler.job import TagRecord
from dstack_scheduler.pushed import PushedRun

T = TypeVar("T")

if TYPE_CHECKING:
    from dstack_mesh.chunks.fetched import Fetched


class Pulled:
    """Runs and tags that were pulled, a file each."""

    def __init__(self, home: Home) -> None:
        self._runs = pulled_folder(home) / "runs"
        self._tags = pulled_folder(home) / "tags"

    def keep(self, run: PushedRun, tags: list[TagRecord]) -> None:
        """Remembers a run; its bytes must be in the store already."""
        from dstack_scheduler.wire.pushed import run_to_bytes, tag_to_bytes

        for folder in (self._runs, self._tags):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._runs / run.run.run_id, run_to_bytes(run))
        for content in map(tag_to_bytes, tags):
            write_durably(self._tags / digest_of(content).hex()[:32], content)

    def runs(self) -> list[PushedRun]:
        """The runs; one that cannot be read any more is left out."""
        from dstack_scheduler.wire.pushed import run_from_bytes

        return list(_read(self._runs, run_from_bytes))

    def tags(self) -> list[TagRecord]:
        """Statements about tags that came with them."""
        from dstack_scheduler.wire.pushed import tag_from_bytes

        return list(_read(self._tags, tag_from_bytes))


class HereTrees:
    """The trees of our own store; implements `port.TreeSource`."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store

    async def fetch_tree(self, digest: Digest) -> int:
        """Nothing travels. Raises Missing if it is not here."""
        await self.fetch_manifest(digest)
        return 0

    async def fetch_manifest(self, digest: Digest) -> Manifest:
        return await asyncio.to_thread(self._store.get_manifest, digest)

    async def fetch_into(
        self,
        digest: Digest,
        target: Path,
        prefix: str = "",
        on_bytes: Callable[[int], None] | None = None,
    ) -> "Fetched":
        return await asyncio.to_thread(self._lay, digest, target, prefix, on_bytes)

    def _lay(
        self, digest: Digest, target: Path, prefix: str, on_bytes: Callable[[int], None] | None
    ) -> "Fetched":
        from dstack_mesh.chunks.receiving import Receiver

        receiver = Receiver(self._store.get_manifest(digest), target, prefix)
        try:
            for run, data in self._store.read_runs(receiver.wanted):
                receiver.take([chunk for chunk, _ in run], memoryview(data))
                if on_bytes is not None:
                    on_bytes(len(data))
            return receiver.finish(0)
        finally:
            receiver.close()


def _read(folder: Path, parse: Callable[[bytes], T]) -> Iterator[T]:
    with suppress(FileNotFoundError):
        for file in sorted(folder.iterdir()):
            with suppress(MeshError):
                yield parse(file.read_bytes())
