"""Writes what a run kept as plain files for other tools: into a folder, or into a bucket.

Layout: each artifact at its own path; beside them `.dstack/run.json`, the run as `dstack ps --json`
shows it, and `.dstack/logs/JOB/stdout` and `stderr`. A bucket knows neither links nor modes: links
are left out and named.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

from dstack_cli.kept import artifacts_of, below
from dstack_cli.output.runs import run_item
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.output.words import count, size
from dstack_cli.reach import Private, carry_out, reaching
from dstack_cli.remotes.gathering import Gatherer
from dstack_cli.remotes.here import HereTrees
from dstack_cli.remotes.showing import Showing
from dstack_cli.shelves import source_of
from dstack_mesh.allocator import collect_rarely, keep_buffers
from dstack_mesh.chunks.digest import split_digests
from dstack_mesh.chunks.manifest import Entry, FileEntry, FolderEntry, LinkEntry
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.durable import write_durably
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest
from dstack_mesh.remotes.configured import Bucket
from dstack_mesh.remotes.crew import Crew
from dstack_mesh.remotes.port import ObjectStore
from dstack_mesh.remotes.sending import PART_BYTES, in_parts
from dstack_mesh.remotes.tally import Tally

OWN = ".dstack"
"""Where what is no artifact goes."""


@frozen
class Tree:
    """Something to write, and where below the target."""

    path: str
    digest: Digest


def export(home: Home, run: str, target: "Path | Bucket") -> None:
    """Writes the artifacts and the logs of a run as plain files."""
    keep_buffers()
    collect_rarely()
    terminal = Terminal.of_process()
    screen = Screen(terminal)

    async def work() -> None:
        async with reaching(home, Private.IF_HISTORY) as reach:
            source = await source_of(reach, run)
            record = source.picture.record
            artifacts = artifacts_of(source.picture, source.workflow)
            showing = Showing(screen, terminal)
            gatherer = Gatherer(reach, showing)
            async with showing.going():
                trees: list[Tree] = []
                for artifact in artifacts:
                    showing.doing = f"looking for {artifact.path}, {size(artifact.size_bytes)}"
                    await gatherer.bring(artifact)
                    trees.append(Tree(below(artifact.path), artifact.digest))
                for job in record.jobs:
                    log = await gatherer.log(source.picture, job)
                    if log is not None:
                        trees.append(Tree(f"{OWN}/logs/{job.key.job}", log.digest))
                showing.doing = f"exporting {record.run_name}"
                shape = json.dumps(run_item(source.picture), ensure_ascii=False, indent=2)
                writer = _writer(target, reach.store, showing)
                await writer.write(trees, f"{shape}\n".encode())
            written = f"{count(showing.tally.files, 'file')}, {size(showing.tally.moved_bytes)}"
            where = target.url if isinstance(target, Bucket) else str(target)
            screen.say(f"{record.run_name}: {written}: {where}")

    carry_out(work())


def _writer(target: "Path | Bucket", store: ChunkStore, showing: Showing) -> "_Folder | _Bucket":
    if isinstance(target, Path):
        return _Folder(target, store, showing.tally)
    return _Bucket(target, store, showing)


class _Folder:
    """Writes into a folder."""

    def __init__(self, folder: Path, store: ChunkStore, tally: Tally) -> None:
        self._folder = folder
        self._store = store
        self._tally = tally

    async def write(self, trees: list[Tree], run: bytes) -> None:
        here = HereTrees(self._store)
        for tree in trees:
            manifest = await here.fetch_manifest(tree.digest)
            self._tally.found(manifest.size_bytes, 0, manifest.files)
            await here.fetch_into(tree.digest, self._folder / tree.path, "", self._tally.moved)
        own = self._folder / OWN
        own.mkdir(parents=True, exist_ok=True)
        write_durably(own / "run.json", run, 0o644)


class _Bucket:
    """Writes into a bucket, several files at a time."""

    def __init__(self, place: Bucket, store: ChunkStore, showing: Showing) -> None:
        self._place = place
        self._store = store
        self._showing = showing
        self._tally = showing.tally

    async def write(self, trees: list[Tree], run: bytes) -> None:
        await asyncio.to_thread(self._write, trees, run)

    def _write(self, trees: list[Tree], run: bytes) -> None:
        from dstack_mesh.remotes.s3 import S3Objects

        objects, crew = S3Objects(self._place), Crew()
        try:
            links: list[str] = []
            for tree in trees:
                manifest = self._store.get_manifest(tree.digest)
                self._tally.found(manifest.size_bytes, 0, manifest.files)
                entries = manifest.entries
                links += [one.path for one in entries if isinstance(one, LinkEntry)]
                for _ in crew.each(lambda one, at=tree.path: self._one(objects, at, one), entries):
                    pass
            objects.put(f"{OWN}/run.json", run)
        finally:
            crew.close()
        if links:
            self._showing.say(f"  {count(len(links), 'link')} left out, as {links[0]}")

    def _one(self, objects: ObjectStore, at: str, entry: Entry) -> None:
        match entry:
            case FileEntry() if entry.size_bytes > PART_BYTES:
                objects.put_parts(f"{at}/{entry.path}", self._parts(entry))
            case FileEntry():
                objects.put(f"{at}/{entry.path}", b"".join(self._parts(entry)))
            case FolderEntry():
                objects.put(f"{at}/{entry.path}/", b"")
            case LinkEntry():
                pass

    def _parts(self, entry: FileEntry) -> Iterator[bytes]:
        for part in in_parts(self._store, split_digests(entry.digests)):
            size_bytes = len(part)
            yield part
            del part
            self._tally.moved(size_bytes)
