"""Makes everything ready that a job needs: its folder, its code, its inputs, room on the disk."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import field
from pathlib import Path
from typing import TypeVar

from dstack_agent.artifacts.saving import Saver
from dstack_agent.environments.moving import settle
from dstack_agent.executor.foreign import remove_tree
from dstack_agent.jobs.bringing import Bringer
from dstack_agent.jobs.caching import Caching
from dstack_agent.jobs.clashing import Part, clash
from dstack_agent.jobs.places import Places
from dstack_mesh.chunks.room import check_reserve
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.to_the_end import to_the_end
from dstack_scheduler.job import Input, JobSpec

T = TypeVar("T")

NAMED = 3
"""Files that are named; of the others it is said how many there are."""

Note = Callable[[str], Awaitable[None]]


@frozen
class Preparation:
    """Prepares one attempt; can be begun anew at any time before the launch.

    Attributes:
        note: Tells people what is going on.
        equip: Gives the job the environment that it asks for.
    """

    folder: Path
    spec: JobSpec
    places: Places
    store: ChunkStore
    bringer: Bringer
    saver: Saver
    caching: Caching
    note: Note
    equip: Callable[[Note], Awaitable[None]]
    _dropped: threading.Event = field(default_factory=threading.Event)

    async def run(self) -> None:
        """Returns when the job can be launched; once it is over nothing is written any more.

        Raises:
            MeshError: With the reason as its code.
        """
        try:
            await self._in_thread(self._make_folder)
            await self._in_thread(self._lay_code)
            await self._lay_caches()
            for number in range(len(self.spec.inputs)):
                await self._lay_input(number)
            await self._in_thread(self._make_artifact_folders)
            await self.equip(self.note)
        except OSError as error:
            raise Refused(
                "The job's folder cannot be prepared.", str(error), code="folder-not-prepared"
            ) from error

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """What work returns. Cancelled, it asks the thread to stop and waits for its end."""
        return await to_the_end(work, self._dropped.set)

    def _wanted(self) -> bool:
        return not self._dropped.is_set()

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(self.places.work)
        if self.places.outside is not None:
            _clear(self.places.outside)
        if self.places.own_home:
            _clear(self.places.home)
        check_reserve(self.folder, sum(each.size_bytes for each in self.spec.inputs))

    def _lay_code(self) -> None:
        lay_tree(self.store, self.spec.code_digest, self.places.work, wanted=self._wanted)
        self.places.start.mkdir(parents=True, exist_ok=True)

    async def _lay_caches(self) -> None:
        """Before inputs, which have the last word where both have a file."""
        found = self.caching.found()
        if laid := await self._in_thread(lambda: self.caching.lay(found, self._wanted)):
            await self.note(f"{', '.join(laid)} is as the run before left it.")

    async def _lay_input(self, number: int) -> None:
        each = self.spec.inputs[number]
        what = _called(each)
        place = self.places.of(each.path)
        await self.note(f"Bringing {what}.")
        await self.bringer.bring(each.digest, each.sources, what)
        try:
            laid = await self._in_thread(
                lambda: lay_tree(
                    *(self.store, each.digest, place.path),
                    merge=True,
                    within=place.within,
                    wanted=self._wanted,
                )
            )
        except Refused as error:
            raise await asyncio.to_thread(self._clash, number) or error from error
        if self.places.outside is None:
            manifest = self.store.get_manifest(each.digest)
            await self._in_thread(lambda: settle(manifest, place))
        if laid.conflicts:
            shown = ", ".join(laid.conflicts[:NAMED])
            more = f" and {len(laid.conflicts) - NAMED:,} more" if laid.conflicts[NAMED:] else ""
            await self.note(f"{what} replaces {shown}{more} in {each.path}.")

    def _clash(self, number: int) -> Refused | None:
        """The two sources that do not fit together, if that is why an input was refused."""
        parts = [
            Part("the project", self.places.work, self.store.get_manifest(self.spec.code_digest))
        ]
        for each in self.spec.inputs[: number + 1]:
            place = self.places.of(each.path).path
            parts.append(Part(_called(each), place, self.store.get_manifest(each.digest)))
        return clash(parts[-1], parts[:-1])

    def _make_artifact_folders(self) -> None:
        try:
            self.saver.make_folders()
        except FileExistsError as error:
            raise Refused(
                "An artifact's folder cannot be made.",
                f"{error.filename} is a file.",
                "Artifacts are folders; name the folder that the file is in.",
                "artifact-is-file",
            ) from error


def _called(each: Input) -> str:
    return f"{each.path} of {each.origin}" if each.origin else each.path


def _clear(folder: Path) -> None:
    """An empty folder, whatever an earlier life of the agent left there."""
    if trouble := remove_tree(folder):
        raise trouble
    folder.mkdir(mode=0o700)


def reason_of(error: MeshError) -> tuple[str, str]:
    """The stable word and the sentence that a failed preparation is told by."""
    return error.code, f"{error} {error.hint}".strip()
