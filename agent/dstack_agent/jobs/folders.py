"""Job folders as an earlier life of the agent left them, and as a job leaves them."""

import asyncio
import logging
import shutil
from pathlib import Path

from dstack_agent.executor.watching import read_shim

log = logging.getLogger(__name__)

SHIM_SECONDS = 1.0
"""A shim whose agent was killed while starting it claims its job within this time, or never."""

SHIM_LOOKS = 20


async def was_launched(folder: Path) -> bool:
    """Whether a shim has, or had, the job. One that is just starting is given the time for it."""
    for _ in range(SHIM_LOOKS):
        if await asyncio.to_thread(read_shim, folder) is not None:
            return True
        await asyncio.sleep(SHIM_SECONDS / SHIM_LOOKS)
    return False


def remove_work(folder: Path) -> None:
    """Removes what a job worked in: every folder in its own. The log and what the shim said stay.

    What cannot be removed stays too and is logged.
    """
    for part in folder.iterdir():
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, onerror=_not_removed)


def _not_removed(_: object, path: str, error: object) -> None:
    log.warning("%s was not removed: %s", path, error)
