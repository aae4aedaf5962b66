"""The wheels that an agent needs: made of what is installed here, kept below this home.

A wheel's name in the cache has a hash of its content, so an old one is never taken for a new one.
"""

import hashlib
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from dstack_cli.enrolling.fitting import Platform, fits, glibc_of
from dstack_cli.enrolling.repacking import (
    OURS,
    digest_of,
    parts_of,
    spelled,
    tags_of,
    write_wheel,
)
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

UNPACKED_TIMES = 5
"""What an unpacked wheel takes at most, in sizes of the wheel."""


@frozen
class Wheel:
    """A wheel in the cache. `name` is its name there and on the host."""

    name: str
    path: Path
    size_bytes: int
    sha256: str


def cache(home: Home) -> Path:
    """Where wheels are kept."""
    return home.root / "wheels"


def this_platform() -> Platform:
    """What this machine's Python is."""
    major, minor = sys.version_info[:2]
    glibc = glibc_of("-".join(platform.libc_ver())) if sys.platform == "linux" else None
    return Platform((major, minor), platform.machine(), glibc)


def closure(path: Iterable[str] | None = None) -> Mapping[str, metadata.Distribution]:
    """Our distribution and all that it needs and is installed, by name.

    A requirement that another platform has is not installed here, and left out.

    Args:
        path: Folders with distributions; this process's own by default.

    Raises:
        Refused: This runs from a checkout that was not installed.
    """
    found = metadata.distributions(path=list(path or sys.path))
    # The first one of a name is the one that would be imported.
    installed = {spelled(one.name): one for one in reversed(list(found))}
    if path is None and OURS not in installed:
        raise Refused(
            "dstack-mesh is not installed here, so there is nothing to carry.",
            "It runs from a folder of sources.",
            "pip install -e .   (in the checkout)",
            code="not-installed",
        )
    needed: dict[str, metadata.Distribution] = {}
    todo = [OURS] if OURS in installed else list(installed)
    while todo:
        name = todo.pop()
        if name in needed or name not in installed:
            continue
        needed[name] = installed[name]
        todo += _needs(installed[name])
    return dict(sorted(needed.items()))


def unfit(
    wanted: Mapping[str, metadata.Distribution], there: Platform, here: Platform
) -> tuple[str, ...]:
    """Names of those that do not run on the host as they are installed here."""
    return tuple(name for name, one in wanted.items() if not fits(tags_of(one), there, here))


def make_wheels(folder: Path, wanted: Mapping[str, metadata.Distribution]) -> tuple[Wheel, ...]:
    """A wheel of each, from the cache where its content has not changed. Takes seconds the first
    time, and a fraction of one later. Raises Refused, or OSError where the disk is full."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tuple(_make(folder, name, one) for name, one in wanted.items())


def _make(folder: Path, name: str, distribution: metadata.Distribution) -> Wheel:
    parts = parts_of(distribution)
    content = digest_of(distribution, parts)
    path = folder / f"{name}-{distribution.version}-{content}.whl"
    if not path.exists():
        write_wheel(path, distribution, parts)
        _forget_older(folder, name, path)
    data = path.read_bytes()
    return Wheel(path.name, path, len(data), hashlib.sha256(data).hexdigest())


def _forget_older(folder: Path, name: str, kept: Path) -> None:
    for older in folder.glob(f"{name}-[0-9]*.whl"):
        if older != kept and older.stat().st_mtime < kept.stat().st_mtime - 30 * 86400:
            older.unlink(missing_ok=True)


def _needs(distribution: metadata.Distribution) -> list[str]:
    """What it requires without extras."""
    found: list[str] = []
    for line in distribution.requires or ():
        requirement, _, marker = line.partition(";")
        named = _NAME.match(requirement)
        if named is not None and "extra" not in marker:
            found.append(spelled(named[0]))
    return found
