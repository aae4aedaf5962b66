"""Stops runs and says how they ended, or that nobody confirmed it."""

import asyncio
from collections.abc import Sequence

from dstack_cli import exit_codes
from dstack_cli.choosing import Meant, meant
from dstack_cli.naming import owner
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Json, Listing
from dstack_cli.output.screen import Screen
from dstack_cli.output.table import Column, Table
from dstack_cli.output.terminal import Terminal
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_mesh.faults import Forbidden, MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.job import JobState

SCHEMA = "dstack.stops/v1"
LOOK_EVERY_SECONDS = 0.2

CONFIRM_SECONDS = 60.0
"""How long an end is waited for: the grace, and then saving what the job kept."""

AWAY_SECONDS = 5.0
"""How long it is tried where the run's agents do not answer."""

SAVING_SECONDS = 600.0
"""How long it is waited for while the job's artifacts are saved."""


@frozen
class Stopped:
    """How it ended for one run; `confirmed` if its agents said so."""

    picture: RunPicture
    confirmed: bool


@frozen
class Wanted:
    """What is to end: a run or a job, or without a name all of this person's runs that go on."""

    run: str | None = None
    workflow: str = ""
    abort: bool = False


def stop_runs(home: Home, wanted: Wanted, as_json: bool) -> int:
    """Ends runs; returns the exit code."""
    screen = Screen(Terminal.of_process(), talks=not as_json)

    async def work() -> list[Stopped]:
        async with reaching(home, Private.IF_HISTORY) as reach:
            pictures = await reach.runs()
            if wanted.run is not None:
                found = [meant(wanted.run, pictures, wanted.workflow)]
            else:
                own = [one for one in pictures if one.record.owner == owner()]
                found = [Meant(one) for one in own if one.heard and not one.status.ended]
            if len(found) == 1:
                return [await _stop(reach, found[0], wanted.abort, screen)]
            stopping = (_stop_or_say(reach, one, wanted.abort, screen) for one in found)
            return await asyncio.gather(*stopping)

    ended = carry_out(work())
    screen.live("", 0.0)
    chosen(as_json).listing(_listing(ended))
    return 0 if all(one.confirmed for one in ended) else exit_codes.OURS


async def ask_to_stop(
    reach: Reach, picture: RunPicture, abort: bool, job: int | None = None
) -> bool:
    """Asks every agent that knows the run; whether one wrote it down.

    Raises:
        Forbidden: Who answered refuses: it is not ours to stop.
    """
    agents = [one for one in await reach.answering() if one.card.peer_id in picture.tellers]
    cause = f"{'aborted' if abort else 'stopped'} by {owner()}"
    asked = await asyncio.gather(*(_asked(agent, picture, job, abort, cause) for agent in agents))
    refused = [answer for answer in asked if isinstance(answer, Forbidden)]
    if refused and None not in asked:
        raise refused[0]
    return None in asked


async def _asked(
    agent: Agent, picture: RunPicture, job: int | None, abort: bool, cause: str
) -> MeshError | None:
    """Why an agent did not write it down; None if it did."""
    try:
        await agent.stop(picture.record.run_id, job, abort, cause)
    except MeshError as error:
        return error
    return None


async def _stop_or_say(reach: Reach, meant: Meant, abort: bool, screen: Screen) -> Stopped:
    """The same for one of several: what keeps it from ending keeps no other one from it."""
    try:
        return await _stop(reach, meant, abort, screen)
    except MeshError as error:
        screen.say(f"{meant.picture.record.run_name}: {error} {error.hint}".rstrip())
        return Stopped(meant.picture, confirmed=False)


async def _stop(reach: Reach, meant: Meant, abort: bool, screen: Screen) -> Stopped:
    now = asyncio.get_running_loop().time
    began = now()
    picture, job = meant.picture, meant.job
    name = picture.record.run_name
    while not _status(picture, job).ended:
        await ask_to_stop(reach, picture, abort, job)
        asked_at = now()
        while not _status(picture, job).ended and now() - asked_at < 5.0:
            screen.live(f"stopping {name}: {_status(picture, job).value}", now())
            screen.tick(now())
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            picture = await reach.again(picture)
        if now() - began > _patience(picture):
            return Stopped(picture, confirmed=False)
    return Stopped(picture, confirmed=picture.heard)


def _status(picture: RunPicture, job: int | None) -> JobState:
    """How the run stands, or one job of it."""
    states = {one.key.job: one.state.state for one in picture.record.jobs}
    return picture.status if job is None else states.get(job, JobState.WAITING)


def _patience(picture: RunPicture) -> float:
    if picture.stale or not picture.heard:
        return AWAY_SECONDS
    return SAVING_SECONDS if picture.status.value == "saving" else CONFIRM_SECONDS


def _listing(ended: Sequence[Stopped]) -> Listing:
    items: list[dict[str, Json]] = [
        {
            "run": one.picture.record.run_name,
            "status": one.picture.status.value,
            "confirmed": one.confirmed,
        }
        for one in ended
    ]
    rows = tuple(
        (
            one.picture.record.run_name,
            one.picture.status.value if one.confirmed else "unconfirmed",
            "" if one.confirmed else "its agents do not answer; it may still run",
        )
        for one in ended
    )
    return Listing(
        schema=SCHEMA,
        items=items,
        table=Table((Column("RUN"), Column("STATUS"), Column("", 1)), rows),
        names=[one.picture.record.run_name for one in ended],
        empty="Nothing runs.",
    )
