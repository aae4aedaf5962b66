"""Reads what a job made, from the agent that has it, and takes it into the run."""

import asyncio
from collections.abc import Awaitable, Callable

from dstack_mesh.faults import MeshError
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.award import Trees
from dstack_scheduler.follow import TRANSIENT, wanted_pause_seconds
from dstack_scheduler.growing import grown
from dstack_scheduler.job import JobKey
from dstack_scheduler.providers.own import FILE, FOLDER
from dstack_scheduler.track import Track

MOST_BYTES = 256 * 1024


async def grown_by(
    key: JobKey, track: Track, store: Trees, pause: Callable[[int, float], Awaitable[None]]
) -> tuple[DrivenJob, ...]:
    """The jobs of the run with those that an ended job made.

    Args:
        pause: Between tries to reach its agent, given their number and the least seconds.
    """
    tries, text = 0, None
    while text is None:
        try:
            text = await _written(key, track, store)
        except TRANSIENT as error:
            await pause(tries, wanted_pause_seconds(error))
            tries += 1
        except MeshError:
            text = b""
    return await asyncio.to_thread(grown, track.jobs, key.job, text)


async def _written(key: JobKey, track: Track, store: Trees) -> bytes:
    """What a job wrote of the jobs that it makes. Raises MeshError."""
    kept = track.kept(key, FOLDER)
    if kept is None:
        return b""
    digest, agent = kept
    if store.missing_manifest(digest):
        await agent.fetch_tree(digest)
    return await asyncio.to_thread(store.read_file, digest, FILE, MOST_BYTES)
