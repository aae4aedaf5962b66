"""Whether a wheel runs on a host, from its tags (PEP 425, PEP 600)."""

import re
from collections.abc import Iterable

from dstack_mesh.frozen import frozen

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")
_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_PYTHON = re.compile(r"(cp|py)(\d)(\d*)")


@frozen
class Platform:
    """What a wheel is held against.

    Attributes:
        python: Version of its CPython.
        machine: As "x86_64".
        glibc: Version of its C library; None where it has another one.
    """

    python: tuple[int, int]
    machine: str
    glibc: tuple[int, int] | None

    def __str__(self) -> str:
        libc = f"glibc {self.glibc[0]}.{self.glibc[1]}" if self.glibc else "no glibc"
        return f"Python {self.python[0]}.{self.python[1]}, {self.machine}, {libc}"


def glibc_of(libc: str) -> tuple[int, int] | None:
    """The version in "glibc-2.36"; None for another library."""
    found = re.fullmatch(r"glibc-(\d+)\.(\d+)", libc)
    return (int(found[1]), int(found[2])) if found else None


def fits(tags: Iterable[str], there: Platform, here: Platform) -> bool:
    """Whether any of the tags runs there.

    Args:
        tags: Of the wheel.
        there: The host.
        here: Where the wheel was installed: what was built here needs this machine's C library.
    """
    return any(_fits(tag, there, here) for tag in tags)


def _fits(tag: str, there: Platform, here: Platform) -> bool:
    pythons, abis, platforms = tag.split("-")
    return any(
        _runs(python, abi, there.python) and _is_at_home(platform, there, here)
        for python in pythons.split(".")
        for abi in abis.split(".")
        for platform in platforms.split(".")
    )


def _runs(python: str, abi: str, version: tuple[int, int]) -> bool:
    found = _PYTHON.fullmatch(python)
    if found is None or int(found[2]) != version[0]:
        return False
    minor = int(found[3] or 0)
    match abi:
        case "none":
            return found[1] == "py" or (not found[3] or minor == version[1])
        case "abi3":
            return minor <= version[1]
        case _:
            return abi == python and minor == version[1]


def _is_at_home(platform: str, there: Platform, here: Platform) -> bool:
    if platform == "any":
        return True
    old, _, machine = platform.partition("_")
    if old in _OLD_NAMES:
        return _at_least(there, machine, _OLD_NAMES[old])
    if (found := _MANYLINUX.fullmatch(platform)) is not None:
        return _at_least(there, found[3], (int(found[1]), int(found[2])))
    built_here = here.glibc is not None and platform == f"linux_{there.machine}"
    return built_here and here.glibc is not None and _at_least(there, here.machine, here.glibc)


def _at_least(there: Platform, machine: str, glibc: tuple[int, int]) -> bool:
    return there.machine == machine and there.glibc is not None and there.glibc >= glibc
