"""Lists what runs kept and brings it here."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dstack_cli.choosing import meant
from dstack_cli.kept import (
    KeptArtifact,
    Source,
    Wanted,
    artifacts_of,
    below,
    by_tag,
    wanted,
)
from dstack_cli.output.files import Shelf, files_listing, partial_lines, totals_listing
from dstack_cli.output.port import Output
from dstack_cli.output.runs import away_text
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.output.words import count, duration, size
from dstack_cli.picture import PROMISED, RunPicture, everything
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_cli.remembered import recall
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.faults import Damaged, MeshError, Missing, TooLate, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId

if TYPE_CHECKING:
    from dstack_mesh.chunks.fetched import Fetched

TICK_SECONDS = 0.2

ANOTHER_MAY = (Damaged, Missing, TooLate, Unreachable)
"""What one holder cannot and another perhaps can."""


@frozen
class Looking:
    """What of a run's artifacts to list, and how; `workflow` narrows it to that one's jobs."""

    prefix: str = ""
    recursive: bool = False
    total: bool = False
    workflow: str = ""


def list_kept(home: Home, run: str, looking: Looking, output: Output) -> None:
    """Lists what a run kept."""

    async def look() -> None:
        async with reaching(home, Private.IF_HISTORY) as reach:
            source = await source_of(reach, run, looking.workflow)
            artifacts = artifacts_of(source.picture, source.workflow)
            found = wanted(looking.prefix, artifacts, source.picture.record.run_name)
            holders = _Holders(reach, source.picture)
            for line in holders.missing(found):
                output.talk(line)
            for line in holders.fewer(found, len(await reach.answering())):
                output.talk(line)
            for line in partial_lines([one.artifact for one in found], datetime.now(UTC)):
                output.talk(line)
            if looking.total:
                output.listing(totals_listing([one.artifact for one in found], holders))
                return
            shelves = [
                Shelf(one.artifact, await holders.manifest(one.artifact), one.inside)
                for one in found
            ]
            if shelves and all(one.manifest is None for one in shelves):
                output.talk("their files cannot be listed now; each artifact is one line")
            output.listing(files_listing(shelves, looking.recursive, holders))

    carry_out(look())


def fetch(home: Home, run: str, path: str, dest: Path, workflow: str = "") -> None:
    """Brings what a path names to a place on this machine, every byte checked by its hash."""

    from dstack_mesh.allocator import collect_rarely, keep_buffers  # a listing does without

    keep_buffers()
    collect_rarely()
    is_folder = dest.is_dir()

    async def bring() -> None:
        async with reaching(home, Private.IF_HISTORY) as reach:
            source = await source_of(reach, run, workflow)
            artifacts = artifacts_of(source.picture, source.workflow)
            found = wanted(path, artifacts, source.picture.record.run_name)
            screen = Screen(Terminal.of_process())
            await _Fetching(reach, screen).fetch(found, dest, is_folder)
            await asyncio.to_thread(reach.store.drafts.sweep)

    carry_out(bring())


class _Fetching:
    """Brings files, with one line that tells how far it is."""

    def __init__(self, reach: Reach, screen: Screen) -> None:
        self._reach = reach
        self._screen = screen
        self._bytes = 0
        self._total = 0

    async def fetch(self, found: Sequence[Wanted], dest: Path, is_folder: bool) -> None:
        now = asyncio.get_running_loop().time
        began = now()
        self._total = sum(one.artifact.size_bytes for one in found)
        files = written = here = 0
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(self._tick())
            for one in found:
                # Several artifacts, or one as a whole into a folder that exists, keep their names.
                # A folder that one made which broke off is not one that existed.
                begun = self._reach.store.drafts.of(one.artifact.digest).broke_off(dest)
                several = len(found) > 1 or (not one.inside and is_folder and not begun)
                target = dest / below(one.artifact.path) if several else dest
                fetched = await self._one(one, target)
                files, written = files + fetched.files, written + fetched.size_bytes
                here += fetched.here_bytes
            ticking.cancel()
        self._screen.live("", now())
        took = duration(now() - began)
        lay = f", {size(here)} of it was here" if here else ""
        self._screen.say(f"{count(files, 'file')}, {size(written)} in {took}{lay}: {dest}")
        for line in partial_lines([one.artifact for one in found], datetime.now(UTC)):
            self._screen.say(line)

    async def _one(self, one: Wanted, target: Path) -> "Fetched":
        trouble: MeshError | None = None
        for holder in self._reach.nearest(one.artifact.holders):
            away = self._reach.away(holder) is not None
            client = None if away else await self._reach.transfer(holder)
            if client is None:
                continue
            try:
                fetched = await client.fetch_into(
                    one.artifact.digest, target, one.inside, self._add
                )
                if fetched.left_out:
                    links = f"{count(len(fetched.left_out), 'link')} out of it left out"
                    self._screen.say(f"{target}: {links}, as {fetched.left_out[0]}")
                return fetched
            except ANOTHER_MAY as error:
                trouble = error
        raise trouble or nobody_has(one.artifact, self._reach)

    def _add(self, written: int) -> None:
        self._bytes += written

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._screen.live(f"copying, {size(self._bytes)} of {size(self._total)}", loop.time())
            self._screen.tick(loop.time())
            await asyncio.sleep(TICK_SECONDS)


async def source_of(reach: Reach, text: str, workflow: str = "") -> Source:
    """The run that "RUN", "JOB", ":TAG" or "WORKFLOW:TAG" means, or the same of another
    repository; `workflow` narrows a run."""
    listings = await reach.listings()
    pictures = everything(listings, recall(reach.home))
    if ":" in text or "/" in text:
        from dstack_cli.here import repo_of

        return by_tag(text, pictures, [one for _, one in listings], repo_of(Path.cwd()))
    found = meant(text, [one for one in pictures if not one.removed], workflow)
    names = {job.key.job: job.workflow for job in found.picture.record.jobs}
    return Source(found.picture, names.get(found.job, "") if found.job is not None else "")


class _Holders:
    """Who has the artifacts of a run, and which of them can be reached; as `files.Holders`."""

    def __init__(self, reach: Reach, picture: RunPicture) -> None:
        self._reach = reach
        self._silent = {
            job.agent_id for job in picture.record.jobs if job.agent_id and picture.is_kept(job)
        }
        self._names = {job.agent_id: job.agent_name for job in picture.record.jobs if job.agent_id}

    def name(self, peer_id: PeerId) -> str:
        return self._reach.names().get(peer_id) or self._names.get(peer_id, peer_id)

    def reached(self, peer_id: PeerId) -> bool:
        return peer_id not in self._silent and self._reach.away(peer_id) is None

    def missing(self, found: Sequence[Wanted]) -> list[str]:
        """A line for each holder that does not answer."""
        holders = dict.fromkeys(peer for one in found for peer in one.artifact.holders)
        away = [one for peer in holders if (one := self._reach.away(peer)) is not None]
        now = datetime.now(UTC)
        return [f"copies on {away_text([one], now)} cannot be reached" for one in away]

    def fewer(self, found: Sequence[Wanted], agents: int) -> list[str]:
        """A line for each whole artifact of which fewer copies can be reached than are promised
        where so many agents answer."""
        if agents < PROMISED and not self._reach.has_elsewhere:
            return []
        lines: list[str] = []
        for artifact in dict.fromkeys(one.artifact for one in found if one.artifact.complete):
            names = [self.name(peer) for peer in artifact.holders if self.reached(peer)]
            if len(names) < PROMISED:
                where = f", on {names[0]}" if names else ""
                lines.append(f"{artifact.path} has {len(names)} of {PROMISED} copies{where}")
        return lines

    async def manifest(self, artifact: KeptArtifact) -> Manifest | None:
        """What is in an artifact; None if nobody who has it answers."""
        store = self._reach.store
        if not await asyncio.to_thread(store.missing_manifest, artifact.digest):
            return await asyncio.to_thread(store.get_manifest, artifact.digest)
        for holder in self._reach.nearest(artifact.holders):
            client = await self._reach.transfer(holder) if self.reached(holder) else None
            try:
                if client is not None:
                    return await client.fetch_manifest(artifact.digest)
            except Unreachable:
                pass
            self._silent.add(holder)
        return None


def nobody_has(artifact: KeptArtifact, reach: Reach) -> Unreachable:
    """The error of an artifact that nobody gives who has it."""
    names = reach.names()
    holders: list[str] = [names.get(PeerId(peer), peer) for peer in artifact.holders]
    return Unreachable(
        f"{artifact.path} cannot be fetched now.",
        f"It is on {', '.join(holders) or 'no agent'}, which does not answer.",
        "dstack agents",
        code="no-source",
    )
