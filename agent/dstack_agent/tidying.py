"""Keeps what jobs leave on a machine bounded: at the agent's start, and every hour from then on."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from dstack_agent.executor.engine import EngineError
from dstack_agent.executor.leftovers import remove_leftovers
from dstack_agent.jobs.places import key_of
from dstack_mesh.faults import MeshError
from dstack_scheduler.job import JobKey

log = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
"""Between two looks. Shorter: what is left goes sooner; each look reads a list of all jobs."""

Work = Callable[[], Awaitable[object]]


class Tidying:
    """Does some works again and again; one that fails keeps no other from being done.

    Args:
        works: What is done, in this order.
    """

    def __init__(self, works: Sequence[Work], every_seconds: float = EVERY_SECONDS) -> None:
        self._works = works
        self._every_seconds = every_seconds

    async def run(self, ready: asyncio.Event) -> None:
        """Tidies until cancelled, once the jobs of before were found again."""
        await ready.wait()
        while True:
            for work in self._works:
                await self._tried(work)
            await asyncio.sleep(self._every_seconds)

    async def _tried(self, work: Work) -> None:
        try:
            await work()
        except (MeshError, OSError, sqlite3.Error) as error:  # a full disk, no engine; tried again
            log.warning("what jobs left stays for now: %s", error)


def tidy_containers(
    socket: Path | None, agent: str, jobs: Path, ended: Callable[[], set[JobKey]]
) -> Work:
    """Removes containers of jobs that ended: this agent's, of folders below `jobs`."""

    async def work() -> None:
        if socket is None:
            return
        over = ended()

        def is_over(folder: Path) -> bool:
            return folder.parent == jobs and key_of(folder) in over

        try:
            removed = await asyncio.to_thread(remove_leftovers, socket, agent, is_over)
        except (EngineError, OSError):  # an engine that is not there is no news
            return
        if removed:
            log.info("%d containers of jobs that had ended were removed", removed)

    return work
