"""Pulls runs: their artifacts and logs into this home, every byte checked by its hash."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from dstack_cli.kept import by_tag
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Json, Listing
from dstack_cli.output.screen import Screen
from dstack_cli.output.table import Column, Table
from dstack_cli.output.terminal import Terminal
from dstack_cli.output.words import count, size
from dstack_cli.picture import put_together
from dstack_cli.reach import Private, Reach, carry_out, chosen_run, reaching
from dstack_cli.remotes.elsewhere import listing_of, runs_of, tags_of
from dstack_cli.remotes.here import Pulled
from dstack_cli.remotes.opened import OpenRemote
from dstack_cli.remotes.showing import Showing
from dstack_mesh.allocator import collect_rarely, keep_buffers
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import RunId
from dstack_mesh.remotes.tally import Tally
from dstack_scheduler.pushed import PushedRun

SCHEMA = "dstack.pulls/v1"


@frozen
class Fetched:
    """A run that is in this home now."""

    run_name: str
    remote: str
    artifacts: int
    total_bytes: int
    moved_bytes: int


def pull(home: Home, runs: Sequence[str], remote: str, as_json: bool, quiet: bool) -> None:
    """Brings runs from a remote."""
    keep_buffers()
    collect_rarely()
    terminal = Terminal.of_process()
    screen = Screen(terminal, talks=not quiet)

    async def work() -> list[Fetched]:
        async with reaching(home, Private.NEVER) as reach:
            place = reach.elsewhere.remote(remote)
            showing = Showing(screen, terminal)
            showing.doing = f"looking what {place.name} has"
            async with showing.going():
                await reach.elsewhere.hear(place)
                wanted = dict.fromkeys(_meant(run, place) for run in runs)
                return [await _pull(reach, place, run_id, showing) for run_id in wanted]

    fetched = carry_out(work())
    if as_json or quiet:
        chosen(as_json, quiet).listing(_listing(fetched))


def _meant(text: str, remote: OpenRemote) -> RunId:
    """The run in the remote that a name, a tag or "WORKFLOW:TAG" means."""
    listing = listing_of(remote)
    pictures = put_together([(remote.peer_id, listing)])
    if ":" in text or "/" in text:
        from dstack_cli.here import repo_of

        return by_tag(text, pictures, [listing], repo_of(Path.cwd())).picture.record.run_id
    try:
        return chosen_run(text, pictures).record.run_id
    except MeshError as error:
        error.what = f"{error.what.rstrip('.')} in {remote.name}."
        raise


async def _pull(reach: Reach, remote: OpenRemote, run_id: RunId, showing: Showing) -> Fetched:
    versions = [one for one in runs_of(remote) if one.run.run_id == run_id]
    name = versions[0].run.run_name
    showing.doing = f"pulling {name}"
    tally = showing.tally = Tally()
    trees = list(dict.fromkeys(tree for one in versions for tree in one.trees))
    for tree in trees:
        tally.looking = tree != trees[-1]
        await remote.move(lambda one, counted, t=tree: one.fetcher.fetch_tree(t, counted), tally)
        # No run of this home's agent names it, and what nobody names is collected.
        await asyncio.to_thread(reach.store.keep, tree, run_id)
    tags = [tag for tag in tags_of(remote) if tag.run_id == run_id]
    for version in sorted(versions, key=_completeness):
        Pulled(reach.home).keep(version, tags)
    artifacts = len(
        {saved.digest for one in versions for job in one.run.jobs for saved in job.artifacts}
    )
    fetched = Fetched(name, remote.name, artifacts, tally.total_bytes, tally.moved_bytes)
    showing.say(
        f"{name} is here: {count(artifacts, 'artifact')}, "
        f"{size(tally.moved_bytes)} of {size(tally.total_bytes)} received from {remote.name}"
    )
    return fetched


def _completeness(run: PushedRun) -> tuple[int, int, int]:
    """The last of several is kept: the one that knows most."""
    attempts = sum(job.key.attempt for job in run.run.jobs)
    return (len(run.run.jobs), attempts, len(run.logs))


def _listing(fetched: Sequence[Fetched]) -> Listing:
    items: list[dict[str, Json]] = [
        {
            "run": one.run_name,
            "remote": one.remote,
            "artifacts": one.artifacts,
            "size": one.total_bytes,
            "received": one.moved_bytes,
        }
        for one in fetched
    ]
    return Listing(
        schema=SCHEMA,
        items=items,
        table=Table((Column("RUN"),), ()),
        names=[one.run_name for one in fetched],
    )
