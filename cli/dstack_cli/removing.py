"""Takes runs that ended out of all lists. What a tag names is kept for as long as it does."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from dstack_cli import exit_codes
from dstack_cli.consent import must_agree
from dstack_cli.here import repo_of
from dstack_cli.names import listed
from dstack_cli.naming import owner
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Listing, Output
from dstack_cli.output.table import Column, Table
from dstack_cli.output.words import count
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Private, Reach, carry_out, chosen_run, reaching
from dstack_cli.remembered import forget
from dstack_cli.remotes import waiting
from dstack_cli.remotes.places import is_elsewhere, pulled_folder
from dstack_mesh.faults import Forbidden, MeshError, Refused, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.ids import RunId
from dstack_scheduler.agent_port import Agent

SCHEMA = "dstack.removals/v1"
NAMED = 5

Choose = Callable[[Sequence[RunPicture]], Sequence[RunPicture]]
"""Which of all runs are meant. Raises MeshError."""


def one(run: str) -> Choose:
    """The run of this name, if it ended."""

    def choose(pictures: Sequence[RunPicture]) -> Sequence[RunPicture]:
        picture = chosen_run(run, pictures)
        if picture.heard and not picture.status.ended:
            raise goes_on(picture.record.run_name, picture.status.value, "removed")
        return [picture]

    return choose


def all_ended(tagged: bool) -> Choose:
    """All runs of this person and this repository that ended; `tagged`: those with a tag too."""

    def choose(pictures: Sequence[RunPicture]) -> Sequence[RunPicture]:
        repo, me = repo_of(Path.cwd()), owner()
        ours = [
            one for one in pictures if (one.record.revision.repo, one.record.owner) == (repo, me)
        ]
        ended = [one for one in ours if one.heard and one.status.ended]
        return [one for one in ended if tagged or not one.tags]

    return choose


def goes_on(name: str, status: str, what: str) -> Refused:
    """The error of a run that did not end yet; `what` is not done to it, as "removed"."""
    why = f"It is {status}; only a run that ended is {what}."
    return Refused(f"{name} goes on.", why, f"dstack stop {name}", "run-goes-on")


def remove(home: Home, choose: Choose, yes: bool, again: str, as_json: bool, quiet: bool) -> int:
    """Removes runs; returns the exit code.

    Args:
        yes: Nothing is asked.
        again: The same command with the flag that says so.
    """
    output = chosen(as_json, quiet)

    async def work() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            meant = choose(await reach.runs())
            if not meant or not must_agree(_question(meant), yes, again):
                output.listing(_listing([]))
                return 0
            removed = await remove_all(reach, meant, output)
            output.listing(_listing(removed))
            return 0 if len(removed) == len(meant) else exit_codes.OURS

    return carry_out(work())


def _question(meant: Sequence[RunPicture]) -> str:
    names = [one.record.run_name for one in meant]
    some = listed(names) if len(names) <= NAMED else f"{count(len(names), 'run')}, {names[0]} first"
    kept = [f":{tag}" for one in meant for tag in one.tags]
    tags = f" What {listed(kept[:NAMED])} names stays." if kept else " What was kept goes too."
    return f"Remove {some}?{tags}"


async def remove_all(
    reach: Reach, meant: Sequence[RunPicture], output: Output
) -> Sequence[RunPicture]:
    """Removes runs; returns those that are. What keeps one of several keeps no other one.

    Raises:
        MeshError: It was one alone, and it stays.
    """
    removed: list[RunPicture] = []
    for picture in meant:
        try:
            for line in await _remove(reach, picture):
                output.talk(line)
            removed.append(picture)
        except MeshError as error:
            if len(meant) == 1:
                raise
            # Also with -q, which is about what was removed.
            chosen().talk(f"{picture.record.run_name}: {error} {error.hint}".rstrip())
    return removed


async def _remove(reach: Reach, picture: RunPicture) -> list[str]:
    """Tells all agents, those that have the run first; returns what is to be said."""
    run_id, name = picture.record.run_id, picture.record.run_name
    agents = await reach.answering()
    having = [agent for agent in agents if agent.card.peer_id in picture.tellers]
    others = [agent for agent in agents if agent.card.peer_id not in picture.tellers]
    answers = [await _asked(agent, run_id) for agent in having]
    for trouble in answers:
        if isinstance(trouble, (Forbidden, Refused)):
            raise trouble
    answers += await asyncio.gather(*(_asked(agent, run_id) for agent in others))
    if picture.heard and None not in answers and not picture.kept:
        raise next((one for one in answers if one is not None), _nobody(name))
    _forget(reach, run_id)
    silent = [f"{one.name} does not answer; it hears of it when it is back" for one in picture.away]
    remotes = [peer for peer in picture.tellers if is_elsewhere(peer)]
    kept = [f"{name} stays in {reach.names()[peer]}" for peer in remotes if peer in reach.names()]
    return [*silent, *kept]


async def _asked(agent: Agent, run_id: RunId) -> MeshError | None:
    """Why an agent did not write it down; None if it did."""
    try:
        await agent.remove(run_id)
    except MeshError as error:
        return error
    return None


def _nobody(name: str) -> Unreachable:
    return Unreachable(
        f"{name} was not removed.", "No agent that knows it is in reach.", "dstack agents"
    )


def _forget(reach: Reach, run_id: RunId) -> None:
    """Lets go of what this home has of a run."""
    forget(reach.home, [run_id])
    (pulled_folder(reach.home) / "runs" / run_id).unlink(missing_ok=True)
    waiting.done(reach.home, run_id)
    reach.store.let_go(run_id)


def _listing(removed: Sequence[RunPicture]) -> Listing:
    names = [one.record.run_name for one in removed]
    return Listing(
        schema=SCHEMA,
        items=[
            {"run": one.record.run_name, "id": one.record.run_id, "tags": list(one.tags)}
            for one in removed
        ],
        table=Table((Column("REMOVED"),), tuple((name,) for name in names)),
        names=names,
        empty="Nothing was removed.",
    )
