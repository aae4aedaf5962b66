"""Says to every agent in reach that a name belongs to a run, or no more."""

import asyncio
from collections.abc import Awaitable, Callable

from dstack_cli.reach import Reach
from dstack_mesh.faults import MeshError, Unreachable
from dstack_scheduler.job import TagRecord


async def say_tag(reach: Reach, statement: TagRecord) -> None:
    """Tells every agent in reach about a name.

    Raises:
        MeshError: Nobody wrote it down.
    """
    saying = [_told(agent.tag, statement) for agent in await reach.answering()]
    troubles = await asyncio.gather(*saying)
    if not troubles:
        raise Unreachable("Nobody wrote the name down.", "No agent is in reach.", "dstack agents")
    if None not in troubles:
        raise next(trouble for trouble in troubles if trouble is not None)


async def _told(
    tag: Callable[[TagRecord], Awaitable[None]], statement: TagRecord
) -> MeshError | None:
    try:
        await tag(statement)
    except MeshError as error:
        return error
    return None
