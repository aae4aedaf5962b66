"""What a process job of somebody else may touch: everything but the home of the agent's user and
the agent's own folder, of which it has its own parts.

Landlock knows only what is allowed, so what is beside a hidden folder is listed: a name that comes
later beside one cannot be read or made by that job.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dstack_agent.executor.environment import HOME, TMP, VIRTUAL_ENVIRONMENT
from dstack_agent.executor.sshd import FOLDER as SSHD
from dstack_agent.executor.vault import OF_ROOT

List = Callable[[Path], Iterable[Path]]

WORK = "work"
"""Folder of a job for its code and inputs."""

_PLACES = (WORK, TMP, VIRTUAL_ENVIRONMENT, HOME)
"""Folders of a job that it may write; beside them lies what its shim keeps."""


@dataclass(frozen=True, slots=True)
class Walls:
    """Paths that a job may write, and paths that it may only read."""

    writable: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()


@lru_cache(maxsize=64)  # a machine's folders stay where they are, and a person waits for the job
def outside(search: str, hidden: tuple[Path, ...], python: Path) -> str:
    """A PATH without the folders that a job would see nothing of."""
    shut, seen = _resolved(hidden), _pythons(python)

    def is_seen(entry: str) -> bool:
        path = Path(entry).resolve()
        inside = any(path.is_relative_to(each) for each in shut)
        return not inside or any(path.is_relative_to(each) for each in seen)

    return os.pathsep.join(filter(is_seen, search.split(os.pathsep)))


def walls_of(
    hidden: Sequence[Path], folder: Path, python: Path, vault: str, names: List | None = None
) -> Walls:
    """The walls of a job.

    Args:
        hidden: Folders that it sees nothing of.
        folder: The job's own.
        python: The interpreter that it runs.
        vault: Where its secrets are; empty for nowhere.
        names: What is in a folder; the file system without it.
    """
    # Some users of the system have "/" for a home, which has nothing of a person.
    shut = [path for path in _resolved([*hidden, *_runtime()]) if path != Path("/")]
    beside = list(_beside(Path("/"), shut, names or _listing))
    own = [folder / name for name in _PLACES]
    pythons = (each for each in _pythons(python) if not _holds(each, shut))
    readable = [folder / "commands.sh", folder / SSHD, *pythons, *([Path(vault)] if vault else [])]
    return Walls(tuple(map(str, [*beside, *own])), tuple(map(str, readable)))


def _beside(top: Path, shut: Sequence[Path], names: List) -> Iterable[Path]:
    """The largest parts of a tree that have nothing of what is shut."""
    if top in shut:
        return
    if not _holds(top, shut):
        yield top
        return
    for each in names(top):
        yield from _beside(each, shut, names)


def _holds(path: Path, shut: Sequence[Path]) -> bool:
    return any(each.is_relative_to(path) for each in shut)


def _listing(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if not entry.is_symlink()]
    except OSError:
        return []


def _resolved(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(path.resolve() for path in paths))


def _runtime() -> list[Path]:
    """The user's folder of sockets: agents of SSH and GPG, the bus; vaults of other jobs."""
    return [Path(f"/run/user/{os.getuid()}"), Path(OF_ROOT)]


@lru_cache(maxsize=64)
def _pythons(python: Path) -> tuple[Path, ...]:
    """Where interpreters and their packages lie, which may be in the user's home."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, python.resolve().parent.parent)
    return _resolved(map(Path, prefixes))
