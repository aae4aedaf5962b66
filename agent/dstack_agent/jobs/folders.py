"""Job folders as an earlier life of the agent left them, and as a job leaves them."""

import asyncio
import logging
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dstack_agent.executor.foreign import entries_below, remove_tree
from dstack_agent.executor.watching import read_shim
from dstack_agent.jobs.places import key_of
from dstack_scheduler.job import JobKey

log = logging.getLogger(__name__)

SHIM_SECONDS = 1.0
"""A shim whose agent was killed while starting it claims its job within this time, as a rule.

One that is slower keeps the job: the shim that is started then is refused, and the launch succeeds.
"""

SHIM_LOOKS = 20

DAY_SECONDS = 86_400
KEEP_BYTES = 50 << 30


@dataclass(frozen=True, slots=True)
class Keeping:
    """What stays of jobs that ended.

    Attributes:
        days: Folders of jobs that ended longer ago go.
        work: Whether the folder that a job worked in stays beside its log.
        size_bytes: What all folders may take; the oldest ones go first.
    """

    days: float = 30.0
    work: bool = False
    size_bytes: int = KEEP_BYTES


KEEPING = Keeping()


async def was_launched(folder: Path) -> bool:
    """Whether a shim has, or had, the job. One that is just starting is given the time for it."""
    for _ in range(SHIM_LOOKS):
        if await asyncio.to_thread(read_shim, folder) is not None:
            return True
        await asyncio.sleep(SHIM_SECONDS / SHIM_LOOKS)
    return False


def remove_work(folder: Path) -> None:
    """Removes what a job worked in: every folder in its own. The log and what the shim said stay.

    What cannot be removed stays too and is logged. A folder that is gone is no trouble.
    """
    try:
        parts = list(folder.iterdir())
    except FileNotFoundError:
        return
    for part in parts:
        if part.is_dir() and not part.is_symlink():
            _remove(part)


def _remove(folder: Path) -> None:
    if trouble := remove_tree(folder):
        log.warning("%s was not removed: %s", folder, trouble)


def sweep(jobs: Path, ended: Set[JobKey], keeping: Keeping, now: float) -> None:
    """Removes folders of ended jobs that are too old, and the oldest beyond the size."""
    size = 0
    for touched, folder in sorted(_folders(jobs, ended), reverse=True):
        size += _size(folder)
        too_old = now - touched > keeping.days * DAY_SECONDS
        if too_old or size > keeping.size_bytes:
            log.info("%s is removed: %s", folder, "its time is over" if too_old else "no room")
            _remove(folder)


def _folders(jobs: Path, ended: Set[JobKey]) -> list[tuple[float, Path]]:
    """Folders of these jobs, with the time at which something changed in them."""
    found: list[tuple[float, Path]] = []
    for folder in jobs.iterdir():
        if key_of(folder) in ended and folder.is_dir() and not folder.is_symlink():
            files = (each for each in folder.iterdir() if each.is_file())
            touched = [folder.lstat().st_mtime, *(each.lstat().st_mtime for each in files)]
            found.append((max(touched), folder))
    return found


def _size(folder: Path) -> int:
    """What a folder takes on the disk, its subfolders too; links are not followed."""
    size = 0
    for _, entry in entries_below(folder):
        with suppress(OSError):  # gone meanwhile, or at a path that is too long
            if not entry.is_dir(follow_symlinks=False):
                size += entry.stat(follow_symlinks=False).st_blocks * 512
    return size
