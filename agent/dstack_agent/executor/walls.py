"""What a process job of somebody else may touch: everything but the home of the agent's user and
the agent's own folder, of which it has its own parts, and sockets that do what the user may.

Landlock knows only what is allowed, so what is beside a hidden folder is listed: a name that comes
later beside one cannot be read or made by that job. It does not keep anybody from a socket; where
the system lets a job have mounts of its own, masks do.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dstack_agent.executor import masks
from dstack_agent.executor.environment import HOME, TMP, VIRTUAL_ENVIRONMENT
from dstack_agent.executor.masking import why_no_masks
from dstack_agent.executor.sshd import FOLDER as SSHD
from dstack_agent.executor.vault import OF_ROOT
from dstack_agent.inventory.docker_socket import docker_socket

List = Callable[[Path], Iterable[Path]]

WORK = "work"
"""Folder of a job for its code and inputs."""

_PLACES = (WORK, TMP, VIRTUAL_ENVIRONMENT, HOME)
"""Folders of a job that it may write; beside them lies what its shim keeps."""

_RUN = Path("/run")
_LOGINS = _RUN / "user"
"""Folders of sockets of each user: agents of SSH and GPG, the bus, systemd; vaults of jobs."""

_SERVERS = ("containerd", "crio", "docker", "libvirt", "podman", "screen", "tmux")
"""Folders below /run whose sockets run what they are told to."""

_ENGINES = tuple(map(Path, ("/var/lib/incus", "/var/lib/lxd", "/var/snap/lxd/common/lxd")))
"""The same elsewhere. What lies in /run itself is hidden if it is a socket, whoever makes it."""

_SHARED = (Path("/tmp"), Path("/var/tmp"))
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Walls:
    """What a job gets at.

    Attributes:
        writable: Paths at and below which it may do everything.
        readable: Paths at and below which it may read.
        masks: What is not where it lies, as `masks.put_up` takes it; empty for no masks.
    """

    writable: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()


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
    hidden: Sequence[Path],
    folder: Path,
    python: Path,
    vault: str,
    names: List | None = None,
    masked: bool | None = None,
) -> Walls:
    """The walls of a job.

    Args:
        hidden: Folders that it sees nothing of.
        folder: The job's own.
        python: The interpreter that it runs.
        vault: Where its secrets are; empty for nowhere.
        names: What is in a folder; the file system without it.
        masked: Whether it has masks; by default, where the system lets it.
    """
    # Some users of the system have "/" for a home, which has nothing of a person.
    shut = [path for path in _resolved([*hidden, *_runtime()]) if path != Path("/")]
    beside = list(_beside(Path("/"), shut, names or _listing))
    own = [folder / name for name in _PLACES]
    pythons = (each for each in _pythons(python) if not _holds(each, shut))
    readable = [folder / "commands.sh", folder / SSHD, *pythons, *([Path(vault)] if vault else [])]
    has_masks = not why_no_masks() if masked is None else masked
    words = _masks_of(shut, folder, python, _resolved(hidden)) if has_masks else ()
    return Walls(tuple(map(str, [*beside, *own])), tuple(map(str, readable)), tuple(words))


def _masks_of(
    shut: Sequence[Path], folder: Path, python: Path, hidden: Sequence[Path]
) -> Iterator[str]:
    """What a job sees instead of what is hidden, and instead of folders that everybody writes."""
    engine = docker_socket()
    for path in (*shut, _RUN, *_ENGINES, *([engine] if engine else [])):
        yield from (masks.EMPTY, str(path.resolve()), "")
    yield from (masks.KEEP, str(folder), "")
    for link, to in (*_links_in(_RUN), *_links_of(python), *_links_on(folder)):
        yield from (masks.LINK, link, to)
    used = (*hidden, folder.resolve(), *_pythons(python))
    for path in _SHARED:
        if path.is_dir() and not _holds(path.resolve(), used):
            yield from (masks.INSTEAD, str(path.resolve()), str(folder / TMP))


def _links_in(folder: Path) -> Iterator[tuple[str, str]]:
    try:
        links = [Path(entry.path) for entry in os.scandir(folder) if entry.is_symlink()]
        yield from ((str(path), str(path.readlink())) for path in links)
    except OSError:
        return


@lru_cache(maxsize=64)
def _links_of(python: Path) -> tuple[tuple[str, str], ...]:
    """Links by which interpreters are named, which may be in the user's home too."""
    named = (sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, str(python))
    return tuple(dict.fromkeys(link for path in named for link in _links_on(Path(path))))


def _links_on(path: Path) -> Iterator[tuple[str, str]]:
    """Each link that is followed on the way to a path."""
    rest = list(reversed(path.absolute().parts[1:]))
    here, seen = Path("/"), 0
    while rest and seen < _MOST_LINKS:
        part = rest.pop()
        here = here.parent if part == ".." else here / part
        if here.is_symlink():
            to, seen = str(here.readlink()), seen + 1
            yield str(here), to
            here = Path("/") if to.startswith("/") else here.parent
            rest += [each for each in reversed(Path(to).parts) if each != "/"]


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
    """Folders of sockets, and the vaults of other jobs."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    found = [_LOGINS, Path(OF_ROOT), *(_RUN / name for name in _SERVERS)]
    return [*found, Path(own)] if own.startswith("/") else found


@lru_cache(maxsize=64)
def _pythons(python: Path) -> tuple[Path, ...]:
    """Where interpreters and their packages lie, which may be in the user's home."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, python.resolve().parent.parent)
    return _resolved(map(Path, prefixes))
