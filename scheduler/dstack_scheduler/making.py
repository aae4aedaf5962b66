"""Reads what a job made, from the agent that has it, and takes it into the run."""

import asyncio
from collections.abc import Awaitable, Callable

from dstack_mesh.faults import MeshError
from dstack_mesh.ids import PeerId
from dstack_scheduler.agent_port import Agent, DrivenJob
from dstack_scheduler.award import Trees
from dstack_scheduler.follow import TRANSIENT, wanted_pause_seconds
from dstack_scheduler.growing import grown
from dstack_scheduler.job import JobKey
from dstack_scheduler.providers.own import FILE, FOLDER
from dstack_scheduler.track import Track

MOST_BYTES = 256 * 1024


async def grown_by(
    key: JobKey,
    track: Track,
    store: Trees,
    find: Callable[[PeerId], Awaitable[Agent | None]],
    pause: Callable[[int, float], Awaitable[bool]],
) -> tuple[DrivenJob, ...] | None:
    """The jobs of the run with those that an ended job made; None if they are wanted no more.

    Args:
        find: Where an agent is now.
        pause: Between tries to reach its agent, given their number and the least seconds; whether
            to go on.
    """
    tries = 0
    while True:
        try:
            text: bytes | MeshError = await _written(key, track, store, find)
            break
        except TRANSIENT as error:
            if not await pause(tries, wanted_pause_seconds(error)):
                return None
            tries += 1
        except MeshError as error:
            text = error
            break
    return await asyncio.to_thread(grown, track.jobs, key.job, text)


async def _written(
    key: JobKey, track: Track, store: Trees, find: Callable[[PeerId], Awaitable[Agent | None]]
) -> bytes:
    """What a job wrote of the jobs that it makes. Raises MeshError."""
    kept = track.kept(key, FOLDER)
    if kept is None:
        return b""
    digest, agent = kept
    if store.missing_manifest(digest):
        now = await find(agent.card.peer_id)
        await (now or agent).fetch_tree(digest)
    return await asyncio.to_thread(store.read_file, digest, FILE, MOST_BYTES)
