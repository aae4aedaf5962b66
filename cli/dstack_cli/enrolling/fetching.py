"""Wheels for a host whose Python is another than ours: from the package index that this laptop has.

The host needs no network for it. What is fetched is pinned to what is installed here.
"""

import asyncio
import importlib.util
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from dstack_cli.enrolling.fitting import Platform
from dstack_cli.enrolling.repacking import OURS
from dstack_cli.enrolling.ssh import end
from dstack_cli.enrolling.wheelhouse import Wheel, closure, make_wheels
from dstack_mesh.faults import Refused
from dstack_mesh.version import installed_version

FETCH_SECONDS = 300.0
MOST_LINES = 3


async def fetch_wheels(
    folder: Path, wanted: Mapping[str, metadata.Distribution], there: Platform
) -> tuple[Wheel, ...]:
    """Everything but our own distribution, for that platform.

    Raises:
        Refused: It cannot be had here; the hint says how to go on.
    """
    pins = [f"{name}=={one.version}" for name, one in wanted.items() if name != OURS]
    if there.glibc is None:
        raise _no_wheels(there, "Its C library is not glibc; no wheels are looked up for it.")
    with tempfile.TemporaryDirectory(prefix="dstack-wheels-") as name:
        command = _command(Path(name), there, pins)
        if command is None:
            raise _no_wheels(there, "Neither uv nor pip is here to fetch others.")
        said = await _run(command)
        if said is not None:
            raise _no_wheels(there, said)
        found = closure([name])
        return await asyncio.to_thread(make_wheels, folder, found)


def _command(folder: Path, there: Platform, pins: Sequence[str]) -> tuple[str, ...] | None:
    version = f"{there.python[0]}.{there.python[1]}"
    only = ("--only-binary", ":all:", "--target", str(folder), "--python-version", version)
    if (uv := shutil.which("uv")) is not None:
        glibc = "manylinux_2_28" if there.glibc and there.glibc < (2, 34) else "manylinux_2_34"
        platform = ("--python-platform", f"{there.machine}-{glibc}")
        return (uv, "pip", "install", "-q", *only, *platform, *pins)
    if importlib.util.find_spec("pip") is None:
        return None
    platforms = [word for name in platforms_of(there) for word in ("--platform", name)]
    quiet = ("-q", "--disable-pip-version-check", "--no-compile")
    return (sys.executable, "-m", "pip", "install", *quiet, *only, *platforms, *pins)


def platforms_of(there: Platform) -> tuple[str, ...]:
    """Platform tags that run there, the newest first, as pip wants them: each by name."""
    assert there.glibc is not None
    major, minor = there.glibc
    named = tuple(f"manylinux_{major}_{n}_{there.machine}" for n in range(minor, 16, -1))
    return (*named, f"manylinux2014_{there.machine}")


async def _run(command: Sequence[str]) -> str | None:
    """Runs it; what it said last if it failed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        return f"Nothing came within {FETCH_SECONDS:.0f} s."
    finally:
        await end(process)
    if process.returncode == 0:
        return None
    return "\n".join(output.decode(errors="replace").strip().splitlines()[-MOST_LINES:])


def _no_wheels(there: Platform, why: str) -> Refused:
    version = f"{there.python[0]}.{there.python[1]}"
    return Refused(
        f"What is installed here does not run on the host ({there}).",
        why,
        f"Install Python {sys.version_info[0]}.{sys.version_info[1]} there; or on the host, where "
        "it reaches a package index:\n"
        f"python{version} -m venv ~/dstack && "
        f"~/dstack/bin/pip install dstack-mesh=={installed_version()}\n"
        "~/dstack/bin/dstack-runner join CODE   (dstack mesh invite makes CODE here)",
        code="other-platform",
    )
