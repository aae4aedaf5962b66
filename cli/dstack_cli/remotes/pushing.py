"""Pushes runs: their artifacts and logs, then what is said of them, then their tags.

The order is that of `naming`: at whatever moment it breaks off, nobody sees a run that is not
whole, and the same command goes on from there. Bytes that this home does not have are brought here
first, unless the remote has them.
"""

import asyncio
from collections.abc import Sequence

from dstack_cli import exit_codes
from dstack_cli.kept import KeptArtifact, kept_of, plain_path
from dstack_cli.output import port
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Json
from dstack_cli.output.screen import Screen
from dstack_cli.output.table import Column, Table
from dstack_cli.output.terminal import Terminal
from dstack_cli.output.words import count, size
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_cli.remotes import waiting
from dstack_cli.remotes.elsewhere import RUNS, TAGS, tags_of
from dstack_cli.remotes.gathering import Gatherer
from dstack_cli.remotes.opened import OpenRemote
from dstack_cli.remotes.showing import Showing
from dstack_cli.shelves import source_of
from dstack_mesh.allocator import collect_rarely, keep_buffers
from dstack_mesh.faults import MeshError, Refused, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest, RunId
from dstack_mesh.remotes.tally import Tally
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import TagRecord
from dstack_scheduler.pushed import PushedLog, PushedRun, for_everybody
from dstack_scheduler.resolve import merged_tags
from dstack_scheduler.wire.pushed import run_to_bytes, tag_to_bytes

SCHEMA = "dstack.pushes/v1"


@frozen
class Pushed:
    """A run that is in a remote now."""

    run_name: str
    remote: str
    artifacts: int
    total_bytes: int
    moved_bytes: int
    tags: tuple[str, ...]


@frozen
class Wish:
    """What to push where; `remote` "" is the default one, and `again` repairs what is there."""

    runs: tuple[str, ...] = ()
    remote: str = ""
    again: bool = False


def push(home: Home, wish: Wish, as_json: bool, quiet: bool) -> int:
    """Pushes runs to a remote; without any, those that were to be pushed and have ended.

    Returns the exit code.
    """
    keep_buffers()
    collect_rarely()
    terminal = Terminal.of_process()
    screen = Screen(terminal, talks=not quiet)

    async def work() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            if wish.runs:
                place = reach.elsewhere.remote(wish.remote)
                meant = [(await source_of(reach, run)).picture for run in wish.runs]
                named = {picture.record.run_id: picture for picture in meant}
                wanted = [(picture, place) for picture in named.values()]
            else:
                wanted = await _waiting(reach, screen, wish.remote)
            pusher = Pusher(reach, Showing(screen, terminal), wish.again)
            pushed = await push_all(pusher, wanted)
        if as_json or quiet:
            chosen(as_json, quiet).listing(_listing(pushed))
        return 0 if len(pushed) == len(wanted) else exit_codes.OURS

    return carry_out(work())


async def push_all(
    pusher: "Pusher", wanted: Sequence[tuple[RunPicture, OpenRemote]]
) -> list[Pushed]:
    """Pushes runs; returns those that are pushed. What keeps one of several keeps no other one.

    Raises:
        MeshError: It was one alone, or a remote takes nothing.
    """
    for remote in dict.fromkeys(remote for _, remote in wanted):
        await pusher.begin(remote)
    pushed: list[Pushed] = []
    for picture, remote in wanted:
        try:
            pushed.append(await pusher.push(picture, remote))
        except MeshError as error:
            if len(wanted) == 1:
                raise
            # Also with -q, which is about what was pushed.
            chosen().talk(f"{picture.record.run_name}: {error} {error.hint}".rstrip())
    return pushed


class Pusher:
    """Pushes runs one after the other, with one line that tells how far it is."""

    def __init__(self, reach: Reach, showing: Showing, again: bool = False) -> None:
        self._reach = reach
        self._showing = showing
        self._gatherer = Gatherer(reach, showing)
        self._again = again
        self._begun: set[str] = set()

    async def push(self, picture: RunPicture, remote: OpenRemote) -> Pushed:
        """Pushes a run; on return everybody who has the remote sees it.

        Raises:
            Refused: The run goes on.
            Unreachable: An agent that has an artifact, or the remote, does not answer.
        """
        record = picture.record
        if not picture.status.ended or not picture.heard:
            raise Refused(
                f"{record.run_name} has not ended.",
                f"It is {picture.status.value}; what is pushed never changes again.",
                f"dstack wait {record.run_name} && dstack push {record.run_name}",
                code="run-goes-on",
            )
        await self.begin(remote)
        tally = self._showing.tally = Tally()
        async with self._showing.going():
            every = [
                kept_of(plain_path(artifact.path), artifact, job)
                for job in record.jobs
                for artifact in job.artifacts
            ]
            for artifact in every:
                self._showing.doing = f"pushing {artifact.path}"
                await self._tree(remote, artifact.digest, tally, artifact)
            logs = await self._logs(remote, picture, tally)
            tally.looking = False
            self._showing.doing = f"writing {record.run_name} down"
            tags = await self._say(remote, picture, logs)
        waiting.done(self._reach.home, record.run_id)
        pushed = Pushed(
            *(record.run_name, remote.name, len(every)),
            *(tally.total_bytes, tally.moved_bytes, tags),
        )
        self._showing.say(_line(pushed))
        return pushed

    async def begin(self, remote: OpenRemote) -> None:
        """Has what the remote keeps now, once. Raises MeshError if it cannot be used."""
        if remote.name in self._begun:
            return
        self._showing.doing = f"looking what {remote.name} has"
        async with self._showing.going():
            await remote.do(lambda archive: archive.sender.begin())
            await self._reach.elsewhere.hear(remote)
        self._begun.add(remote.name)

    async def _tree(
        self, remote: OpenRemote, digest: Digest, tally: Tally, kept: KeptArtifact | None
    ) -> None:
        store = self._reach.store
        if store.missing_manifest(digest):
            if not self._again and await remote.do(lambda one: one.sender.has_tree(digest)):
                return
            if kept is not None:
                doing, self._showing.doing = self._showing.doing, f"bringing {_named(kept)} here"
                await self._gatherer.bring(kept)
                self._showing.doing = doing
        await remote.move(
            lambda archive, counted: archive.sender.send_tree(digest, counted, self._again), tally
        )

    async def _logs(
        self, remote: OpenRemote, picture: RunPicture, tally: Tally
    ) -> tuple[PushedLog, ...]:
        logs: list[PushedLog] = []
        for job in picture.record.jobs:
            self._showing.doing = f"pushing the log of {job.workflow or job.provider}"
            log = await self._gatherer.log(picture, job)
            if log is not None:
                logs.append(log)
                await self._tree(remote, log.digest, tally, None)
        return tuple(logs)

    async def _say(
        self, remote: OpenRemote, picture: RunPicture, logs: tuple[PushedLog, ...]
    ) -> tuple[str, ...]:
        """Writes down the run, then its tags."""
        run = PushedRun(for_everybody(picture.record), logs)
        content = run_to_bytes(run)
        await remote.do(lambda archive: archive.records.add(RUNS, run.run.run_id, content))
        listings = [listing for _, listing in await self._reach.listings()]
        tags = tags_to_push(run.run.run_id, listings, tags_of(remote))
        for tag in tags:
            said = tag_to_bytes(tag)
            name = f"{int(tag.at.timestamp() * 1_000_000):020}"
            await remote.do(lambda one, name=name, said=said: one.records.add(TAGS, name, said))
        return tuple(tag.tag for tag in tags if tag.run_id == run.run.run_id)


def tags_to_push(
    run_id: RunId, listings: Sequence[Listing], there: Sequence[TagRecord]
) -> list[TagRecord]:
    """What is to be said of tags with a run: those that it has, and those that it has no more.

    Args:
        there: What is said in the remote.
    """
    before = {(tag.repo, tag.tag) for tag in there if tag.run_id == run_id}
    merged = merged_tags(listings)
    return [tag for place, tag in sorted(merged.items()) if tag.run_id == run_id or place in before]


async def push_ended(reach: Reach, run_id: str, remote: str, screen: Screen) -> bool:
    """Pushes a run that has just ended; says what is wrong instead of raising it."""
    from dstack_mesh.trouble import render

    try:
        place = reach.elsewhere.remote(remote)
        picture = await _ended(reach, run_id)
        await Pusher(reach, Showing(screen, Terminal.of_process())).push(picture, place)
    except MeshError as error:
        screen.say(render(error))
        screen.say(f"  it is still to be pushed to {remote}: dstack push")
        return False
    return True


async def _ended(reach: Reach, run_id: str) -> RunPicture:
    """A run that has just ended, as its agents tell it: they may need a moment to say so."""
    for pause in (0.0, 0.2, 0.5, 1.0, 2.0):
        await asyncio.sleep(pause)
        for picture in await reach.runs():
            if picture.record.run_id == run_id and picture.heard and picture.status.ended:
                return picture
    raise Unreachable("No agent that answers tells of the end of the run.", "", "dstack ps -a")


async def _waiting(reach: Reach, screen: Screen, only: str) -> list[tuple[RunPicture, OpenRemote]]:
    """Runs that were to be pushed and have ended; only those of one remote, if it is named."""
    place = reach.elsewhere.remote(only).name if only else ""
    pictures = {one.record.run_id: one for one in await reach.runs()}
    found: list[tuple[RunPicture, OpenRemote]] = []
    for one in waiting.all_waiting(reach.home):
        if place not in ("", one.remote):
            continue
        picture = pictures.get(one.run_id)
        if picture is None or not picture.heard:
            screen.say(f"{one.run_id} is not pushed: no agent that answers knows it")
        elif not picture.status.ended:
            screen.say(f"{picture.record.run_name} goes on; it is pushed once it has ended")
        else:
            found.append((picture, reach.elsewhere.remote(one.remote)))
    if not found:
        to = f" to {place}" if place else ""
        screen.say(f"Nothing waits to be pushed{to}. Push a run: dstack push RUN")
    return found


def _named(kept: KeptArtifact) -> str:
    return f"{kept.path}, {size(kept.size_bytes)},"


def _line(pushed: Pushed) -> str:
    sent = f"{size(pushed.moved_bytes)} of {size(pushed.total_bytes)} sent"
    tags = "".join(f" :{tag}" for tag in pushed.tags)
    return (
        f"{pushed.run_name} is in {pushed.remote}: {count(pushed.artifacts, 'artifact')}, "
        f"{sent}{',' if tags else ''}{tags}"
    )


def _listing(pushed: Sequence[Pushed]) -> port.Listing:
    items: list[dict[str, Json]] = [
        {
            "run": one.run_name,
            "remote": one.remote,
            "artifacts": one.artifacts,
            "size": one.total_bytes,
            "sent": one.moved_bytes,
            "tags": list(one.tags),
        }
        for one in pushed
    ]
    return port.Listing(
        schema=SCHEMA,
        items=items,
        table=Table((Column("RUN"),), ()),
        names=[one.run_name for one in pushed],
    )
