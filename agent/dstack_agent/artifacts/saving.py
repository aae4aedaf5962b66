"""Saves the artifacts of a job as trees of chunks, once or again and again while it runs.

A running job's folders are watched, and looked at when something changed, or unasked now and then;
`pace` says when. Each look that finds something new makes a version; a version never changes. What
looks cost is bounded: processor and disk by the pace, room by what replaced versions took.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from dstack_agent.artifacts.pace import PACE, Look, Pace, affordable
from dstack_agent.artifacts.saying import changing, warning
from dstack_agent.artifacts.watch import Watch
from dstack_agent.environments.moving import without_interpreters
from dstack_agent.jobs.places import Places
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.room import free_for_jobs
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import CARE, Care, Saved, save_tree
from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError, Missing
from dstack_mesh.ids import Digest
from dstack_scheduler.job import ArtifactSaved, JobKey

log = logging.getLogger(__name__)

NOTHING = Manifest(()).digest
"""What an artifact is before anything is in it."""


@dataclass(slots=True)
class Saver:
    """Artifacts of one attempt.

    Attributes:
        paths: As the workflow names them.
        places: Where they lie.
        versions: The newest version of each that was told.
        free: How much room a folder has.
    """

    key: JobKey
    paths: Sequence[str]
    places: Places
    store: ChunkStore
    clock: Clock
    versions: dict[str, Digest] = field(default_factory=dict[str, Digest])
    pace: Pace = PACE
    watch: Callable[[], Watch] = Watch
    free: Callable[[Path], int] = free_for_jobs
    _written_bytes: int = 0
    _sizes: dict[str, int] = field(default_factory=dict[str, int])

    def make_folders(self) -> None:
        """Makes the folders, so that a job can write into them. Raises MeshError, OSError."""
        for path in self.paths:
            self.places.of(path).path.mkdir(parents=True, exist_ok=True)

    async def changes(self) -> AsyncIterator[ArtifactSaved]:
        """Partial versions, each when it differs from the one before. Never ends."""
        with closing(self.watch()) as watch:
            last = Look(time.monotonic())
            changed: float | None = last.ended
            while True:
                await self._rest(watch, last, changed)
                began, cpu, told = time.monotonic(), 0.0, list[ArtifactSaved]()
                await asyncio.to_thread(watch.begin)
                for path in self.paths if await asyncio.to_thread(self._affordable) else ():
                    seconds, version = await asyncio.to_thread(self._look, path, watch)
                    cpu += seconds
                    told += version
                now = time.monotonic()
                last, changed = Look(now, now - began, cpu, watch.complete), None
                for version in told:
                    self.versions[version.path] = version.digest
                    yield version

    async def _rest(self, watch: Watch, last: Look, changed: float | None) -> None:
        """Returns when it is time for the next look."""
        if changed is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.pace.next_look(last, None) - time.monotonic()):
                    await watch.changed()
                changed = time.monotonic()
        await asyncio.sleep(self.pace.next_look(last, changed) - time.monotonic())

    def _affordable(self) -> bool:
        spent = self._written_bytes - sum(self._sizes.values())
        try:
            return affordable(spent, self.free(self.store.folder))
        except OSError:
            return False

    def _look(self, path: str, watch: Watch) -> tuple[float, list[ArtifactSaved]]:
        """Seconds of processor, and the version if it is new. In a thread."""
        began, at = time.thread_time(), self.clock.now()
        told: list[ArtifactSaved] = []
        try:
            saved = self._save(path, Care(watch.heed, tries=1))
        except (MeshError, OSError) as error:
            # Files come and go while the job writes; the last save decides.
            log.info("artifact %s of %s was not scanned: %s", path, self.key.run_id, error)
            saved = None
        if saved is None:
            # Nobody watches where it will be made.
            watch.complete = False
        else:
            self._written_bytes += saved.written_bytes
            self._sizes[path] = saved.size_bytes
            if self.versions.get(path, NOTHING) != saved.digest:
                told.append(self._told(path, saved, at, complete=False))
        return time.thread_time() - began, told

    async def last(self, complete: bool) -> tuple[list[ArtifactSaved], str]:
        """The last versions, and a warning about those that are not there or not whole.

        Raises:
            MeshError: They cannot be read or kept.
            OSError: The same, from the disk.
        """
        found: dict[str, Saved] = {}
        absent: list[str] = []
        at = self.clock.now()
        for path in self.paths:
            saved = await asyncio.to_thread(self._save, path)
            if saved is None:
                absent.append(path)
                saved = await asyncio.to_thread(_nothing, self.store)
            found[path] = saved
        told = [self._told(path, saved, at, complete) for path, saved in found.items()]
        return told, warning(absent, found)

    def _save(self, path: str, care: Care = CARE) -> Saved | None:
        place = self.places.of(path)
        try:
            saved = save_tree(self.store, place.path, within=place.within, care=care)
        except Missing:
            return None
        return replace(saved, skipped=without_interpreters(place.path, saved.skipped))

    def _told(self, path: str, saved: Saved, at: datetime, complete: bool) -> ArtifactSaved:
        return ArtifactSaved(
            key=self.key,
            path=path,
            digest=saved.digest,
            files=saved.files,
            size_bytes=saved.size_bytes,
            complete=complete,
            at=at,
            changing=changing(saved),
        )


def _nothing(store: ChunkStore) -> Saved:
    return Saved(store.put_manifest(Manifest(()).encode()), 0, 0)
