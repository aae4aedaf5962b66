"""Lays a job's caches before it starts and keeps them when it is done.

Only below the job's own folder: what lies in a person's home stays there by itself.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from dstack_agent.caches import MOST_OF_ONE_BYTES, Caches, Owner
from dstack_agent.jobs.places import Place, Places
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError, Missing
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest
from dstack_scheduler.job_paths import named

log = logging.getLogger(__name__)


@frozen
class Caching:
    """The caches of one attempt. What goes wrong is logged; the job goes on without.

    Attributes:
        paths: As the workflow names them.
    """

    owner: Owner
    paths: tuple[str, ...]
    places: Places
    store: ChunkStore
    caches: Caches
    clock: Clock

    def found(self) -> dict[str, Digest]:
        """What there is, by the paths of the workflow."""
        trees = {path: self.caches.find(self.owner, path) for path in self.paths}
        return {path: digest for path, digest in trees.items() if digest is not None}

    def lay(self, found: Mapping[str, Digest], wanted: Callable[[], bool]) -> list[str]:
        """Lays what was found and makes the other folders; those that were laid. In a thread."""
        own = self._own()
        laid = [
            path
            for path, place in own
            if path in found and self._laid(path, place, found[path], wanted)
        ]
        for path, place in own:
            try:
                place.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:  # the code has a file there
                log.warning("the cache %s of %s: %s", path, self.owner.workflow, error)
        return laid

    def _laid(self, path: str, place: Place, digest: Digest, wanted: Callable[[], bool]) -> bool:
        try:
            lay_tree(
                *(self.store, digest, place.path), merge=True, within=place.within, wanted=wanted
            )
        except (MeshError, OSError) as error:
            log.warning("the cache %s of %s is not laid: %s", path, self.owner.workflow, error)
            return False
        return True

    async def keep(self) -> None:
        """Keeps what the folders are now."""
        for path, place in self._own():
            try:
                saved = await asyncio.to_thread(
                    save_tree, self.store, place.path, within=place.within
                )
                if saved.size_bytes > MOST_OF_ONE_BYTES:
                    log.warning("the cache %s is not kept: %s bytes", path, saved.size_bytes)
                    continue
                await self.caches.keep(self.owner, path, saved, self.clock.now())
            except Missing:
                continue
            except (MeshError, OSError) as error:
                log.warning("the cache %s of %s is not kept: %s", path, self.owner.workflow, error)

    def _own(self) -> list[tuple[str, Place]]:
        """The folders that are the job's alone, and where they lie."""
        return [(path, self.places.of(path)) for path in self.paths if self._is_own(path)]

    def _is_own(self, path: str) -> bool:
        path = named(path, self.places.working_dir)
        if self.places.outside is not None or not path.startswith(("/", "~")):
            return True
        return path.startswith("~") and self.places.own_home
