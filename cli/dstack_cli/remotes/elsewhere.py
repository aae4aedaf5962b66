"""Runs that are kept outside the mesh, in remotes and in what was pulled, told as agents tell them.

A remote is one more teller: what it keeps of a run is put together with what agents say, and it is
one more place that has copies. It must not hold a listing up: what was heard before is shown if it
does not answer soon, and a line says so.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from dstack_cli.remotes.here import HereTrees, Pulled
from dstack_cli.remotes.opened import OpenRemote
from dstack_cli.remotes.places import HERE, chosen_remote, remote_in
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.remotes.archive import Archive
from dstack_mesh.remotes.configured import load_remotes
from dstack_mesh.remotes.port import TreeSource
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import Input, JobRecord, Source, TagRecord
from dstack_scheduler.pushed import PushedRun

RUNS, TAGS = "runs", "tags"
"""The kinds of records in a remote."""

FRESH_SECONDS = 10.0
"""How long a command believes what a remote said."""

SOON_SECONDS = 2.0
"""A remote that was heard before is not waited for any longer by a listing."""

FIRST_SECONDS = 15.0
"""The first time there is nothing else to show."""


class Elsewhere:
    """What is kept outside the mesh. For one event loop.

    Attributes:
        notes: Lines for the person about remotes that did not answer, each once.
    """

    def __init__(self, home: Home, store: ChunkStore) -> None:
        self._home = home
        self._store = store
        self._pulled = Pulled(home)
        self._opened: dict[str, OpenRemote] = {}
        self._heard_at: dict[str, float] = {}
        self.notes: list[str] = []
        self.remotes = load_remotes(home, chosen_remote())

    def remote(self, name: str = "") -> OpenRemote:
        """A remote by its name, or the default one. Raises Missing."""
        name, place = self.remotes.chosen(name)
        if name not in self._opened:
            self._opened[name] = OpenRemote(self._home, self._store, name, place)
        return self._opened[name]

    def trees(self, peer_id: PeerId) -> TreeSource | None:
        """The trees of a remote, or our own; None if that is no place of ours."""
        if peer_id == HERE:
            return HereTrees(self._store)
        name = remote_in(peer_id)
        return self.remote(name) if name in self.remotes.places else None

    def names(self) -> dict[PeerId, str]:
        """What these places are called where copies are listed."""
        remotes = (self.remote(name) for name in self.remotes.places)
        return {HERE: "here", **{remote.peer_id: remote.name for remote in remotes}}

    async def listings(self) -> list[tuple[PeerId, Listing]]:
        """What each place keeps of runs and tags."""
        remotes = [self.remote(name) for name in self.remotes.places]
        await asyncio.gather(*(self._hear_soon(remote) for remote in remotes))
        told = [(remote.peer_id, listing_of(remote)) for remote in remotes]
        pulled = self._pulled.runs()
        if pulled:
            told.append((HERE, _listing(pulled, self._pulled.tags(), HERE)))
        return told

    async def told(self) -> Sequence[Listing]:
        """The same, for whoever looks up what a run takes its inputs from."""
        return [listing for _, listing in await self.listings()]

    async def bring(self, what: Input, reached: bool) -> Input:
        """An input as agents may know it.

        Args:
            reached: Whether an agent that answers has it. If none does, its bytes are in our store
                on return, if any place of ours has them.
        """
        places = {source: self.trees(source.peer_id) for source in what.sources}
        ours = [trees for trees in places.values() if trees is not None]
        if not reached and ours and self._store.missing_manifest(what.digest):
            await ours[0].fetch_tree(what.digest)
        return replace(what, sources=tuple(one for one in what.sources if places[one] is None))

    async def pushed(self, run_id: RunId) -> list[tuple[TreeSource, PushedRun]]:
        """What the places keep of a run, with the logs, nearest place first."""
        found: list[tuple[TreeSource, PushedRun]] = [
            (HereTrees(self._store), one) for one in self._pulled.runs() if one.run.run_id == run_id
        ]
        for remote in map(self.remote, self.remotes.places):
            await self._hear_soon(remote)
            found += [(remote, one) for one in runs_of(remote) if one.run.run_id == run_id]
        return found

    def close(self) -> None:
        """Lets go of all remotes; nothing is waited for."""
        for remote in self._opened.values():
            remote.close()

    async def hear(self, remote: OpenRemote) -> None:
        """Has what a remote keeps now. Raises MeshError."""
        await remote.do(_hear)
        remote.known.note_heard()
        self._heard_at[remote.name] = time.monotonic()

    async def _hear_soon(self, remote: OpenRemote) -> None:
        heard_at = self._heard_at.get(remote.name, float("-inf"))
        if time.monotonic() - heard_at <= FRESH_SECONDS:
            return
        patience = SOON_SECONDS if remote.known.was_heard else FIRST_SECONDS
        self._heard_at[remote.name] = time.monotonic()
        hearing = asyncio.ensure_future(self.hear(remote))
        try:
            await asyncio.wait({hearing}, timeout=patience)
            if hearing.done():
                hearing.result()
            else:
                self._note(f"{remote.name} did not answer in {patience:.0f} s: its runs may be old")
        except MeshError as error:
            self._note(f"{remote.name}: {error}")
        finally:
            hearing.add_done_callback(_heed)

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def runs_of(remote: OpenRemote) -> list[PushedRun]:
    """The runs that a remote was heard to keep; those of a newer form are left out."""
    from dstack_scheduler.wire.pushed import run_from_bytes

    found: list[PushedRun] = []
    for content in remote.known.records("records/runs/").values():
        try:
            found.append(run_from_bytes(content))
        except MeshError:
            continue
    return found


def tags_of(remote: OpenRemote) -> list[TagRecord]:
    """Statements about tags that a remote was heard to keep."""
    from dstack_scheduler.wire.pushed import tag_from_bytes

    found: list[TagRecord] = []
    for content in remote.known.records("records/tags/").values():
        try:
            found.append(tag_from_bytes(content))
        except MeshError:
            continue
    return found


def listing_of(remote: OpenRemote) -> Listing:
    """What a remote was heard to keep, told as an agent tells it."""
    return _listing(runs_of(remote), tags_of(remote), remote.peer_id)


def _listing(pushed: Sequence[PushedRun], tags: Sequence[TagRecord], place: PeerId) -> Listing:
    runs = (
        replace(one.run, jobs=tuple(_kept_at(place, job) for job in one.run.jobs)) for one in pushed
    )
    return Listing(tuple(runs), tuple(tags))


def _kept_at(place: PeerId, job: JobRecord) -> JobRecord:
    """A job with the place among those that have copies; its agent has them too."""
    own = (Source(job.agent_id),) if job.agent_id is not None else ()
    return replace(job, copies=(*own, Source(place)))


def _hear(archive: Archive) -> None:
    for kind in (RUNS, TAGS):
        archive.records.hear(kind)


def _heed(hearing: "asyncio.Future[None]") -> None:
    """Takes the error of an answer that came too late; it was said already that it was late."""
    if not hearing.cancelled():
        hearing.exception()
