"""Saves the artifacts of a job as trees of chunks, once or again and again while it runs.

Watching costs at most one part in twenty of the time: after a scan that took a second, the next one
comes twenty seconds later.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from dstack_agent.jobs.places import Places
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import Saved, save_tree
from dstack_mesh.faults import MeshError, Missing
from dstack_mesh.ids import Digest
from dstack_scheduler.job import ArtifactSaved, JobKey

log = logging.getLogger(__name__)

SCAN_SECONDS = 3.0
"""Between two scans of a job's artifacts. Shorter: fresher partial versions; longer: less disk."""

COST = 20
"""A scan that took t seconds is followed by COST times t seconds of rest."""


@dataclass(slots=True)
class Saver:
    """Artifacts of one attempt.

    Attributes:
        paths: As the workflow names them.
        places: Where they lie.
    """

    key: JobKey
    paths: Sequence[str]
    places: Places
    store: ChunkStore
    _versions: dict[str, Digest] = field(default_factory=dict[str, Digest])

    def make_folders(self) -> None:
        """Makes the folders, so that a job can write into them. Raises MeshError, OSError."""
        for path in self.paths:
            self.places.of(path).path.mkdir(parents=True, exist_ok=True)

    async def changes(self) -> AsyncIterator[ArtifactSaved]:
        """Partial versions, each when it differs from the one before. Never ends."""
        rest = SCAN_SECONDS
        while True:
            await asyncio.sleep(rest)
            started = time.monotonic()
            for path in self.paths:
                saved = await self._scan(path)
                if saved is not None and self._versions.get(path) != saved.digest:
                    self._versions[path] = saved.digest
                    yield self._told(path, saved, complete=False)
            rest = max(SCAN_SECONDS, COST * (time.monotonic() - started))

    async def _scan(self, path: str) -> Saved | None:
        try:
            return await asyncio.to_thread(self._save, path)
        except (MeshError, OSError) as error:
            # Files come and go while the job writes; the last save decides.
            log.info("artifact %s of %s was not scanned: %s", path, self.key.run_id, error)
            return None

    async def last(self, complete: bool) -> tuple[list[ArtifactSaved], str]:
        """The last versions, and a warning about those that are not there.

        Raises:
            MeshError: They cannot be read or kept.
            OSError: The same, from the disk.
        """
        found: dict[str, Saved] = {}
        absent: list[str] = []
        for path in self.paths:
            saved = await asyncio.to_thread(self._save, path)
            if saved is None:
                absent.append(path)
                saved = await asyncio.to_thread(_nothing, self.store)
            found[path] = saved
        told = [self._told(path, saved, complete) for path, saved in found.items()]
        return told, _warning(absent, list(found.values()))

    def _save(self, path: str) -> Saved | None:
        place = self.places.of(path)
        try:
            return save_tree(self.store, place.path, within=place.within)
        except Missing:
            return None

    def _told(self, path: str, saved: Saved, complete: bool) -> ArtifactSaved:
        return ArtifactSaved(self.key, path, saved.digest, saved.files, saved.size_bytes, complete)


def _nothing(store: ChunkStore) -> Saved:
    return Saved(store.put_manifest(Manifest(()).encode()), 0, 0)


def _warning(absent: Sequence[str], found: Sequence[Saved]) -> str:
    """What people should know: artifacts that are not there, files that could not be kept."""
    parts = [f"There is no folder {path}: the artifact is empty." for path in absent]
    left_out = [skipped for saved in found for skipped in saved.skipped]
    if left_out:
        first = left_out[0]
        parts.append(
            f"{len(left_out)} of the files were left out: {first.path} {first.reason}"
            f"{', …' if len(left_out) > 1 else '.'}"
        )
    return " ".join(parts)
