"""One remote while a command uses it: a thread of its own, opened when it is first needed."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dstack_cli.remotes.places import id_of_remote
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.rescuing import RESCUE_SECONDS
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest
from dstack_mesh.remotes.archive import Archive, known_of
from dstack_mesh.remotes.configured import Bucket
from dstack_mesh.remotes.known import Known
from dstack_mesh.remotes.tally import Tally

if TYPE_CHECKING:
    from dstack_mesh.chunks.fetched import Fetched

LEAVE_SECONDS = 2.0
"""So long a transfer that nobody wants any more may take to end, beside what it keeps of files."""

T = TypeVar("T")


class OpenRemote:
    """A remote that may be asked. For one event loop.

    It has trees as an agent has them (`port.TreeSource`), so a command that reads artifacts needs
    not know which of them it reads from.
    """

    def __init__(self, home: Home, store: ChunkStore, name: str, place: Bucket) -> None:
        self._home = home
        self._store = store
        self.name = name
        self.place = place
        self.peer_id = id_of_remote(name)
        self._thread = ThreadPoolExecutor(1, f"remote-{name}")
        self._archive: Archive | None = None

    @cached_property
    def known(self) -> Known:
        """What was read of it before; costs no request."""
        return known_of(self._home, self.place)

    async def do(self, work: Callable[[Archive], T]) -> T:
        """What blocking work with it gives; one after the other, in the order asked."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(self._opened()))

    async def move(
        self,
        work: Callable[[Archive, Tally], T],
        tally: Tally | None = None,
        leave_seconds: float = LEAVE_SECONDS,
    ) -> T:
        """The same for a transfer, which ends if nobody waits for it any more."""
        counted = tally or Tally()
        working = asyncio.ensure_future(self.do(lambda archive: work(archive, counted)))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            counted.give_up()
            # It gives up what it had begun there; if that takes long, a later push sweeps it.
            await asyncio.wait({working}, timeout=leave_seconds)
            if working.done() and not working.cancelled():
                working.exception()
            raise

    async def fetch_tree(self, digest: Digest) -> int:
        return await self.move(lambda archive, tally: archive.fetcher.fetch_tree(digest, tally))

    async def fetch_manifest(self, digest: Digest) -> Manifest:
        return await self.do(lambda archive: archive.fetcher.manifest(digest))

    async def fetch_into(
        self,
        digest: Digest,
        target: Path,
        prefix: str = "",
        on_bytes: Callable[[int], None] | None = None,
    ) -> "Fetched":
        told = on_bytes or _nobody
        return await self.move(
            lambda archive, tally: archive.fetcher.fetch_into(digest, target, prefix, told, tally),
            leave_seconds=RESCUE_SECONDS + LEAVE_SECONDS,
        )

    def close(self) -> None:
        """Lets go of it; nothing is waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._archive is not None:
            self._archive.close()

    def _opened(self) -> Archive:
        if self._archive is None:
            from dstack_mesh.remotes.s3 import S3Objects  # loads boto3, which takes half a second

            self._archive = Archive(S3Objects(self.place), self.known, self._store)
        return self._archive


def _nobody(_: int) -> None:
    """Tells nobody how far it is."""
