"""Takes wheels and makes an environment of them: no pip, no index, no root.

The environment is a folder named by what is in it, made aside and moved in place when it is whole,
so a broken connection leaves the one before. `current` leads to the newest; older ones stay while
jobs that were started by them may run. Nothing is synced: what a power cut takes is found missing
by its hash or its length when this is run again.
"""

import hashlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import IO, Any

from dstack_cli.enrolling.there.places import Places

KEPT = 3
"""Environments that stay; a job's processes may still load from an older one."""

PIECE = 1 << 20

COMMAND = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""
"""Begins in sh: the kernel takes no interpreter whose path is long or has a blank."""


def answer(request: dict[str, Any], body: IO[bytes], tell: Callable[[str], None]) -> dict[str, Any]:
    """Receives what is sent, then installs what is wanted; says where it is."""
    places = Places(request["home"])
    for folder in (places.root, places.software, places.wheels):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(places.software)
    for wheel in request["sent"]:
        _receive(places.wheels, wheel, body)
    wanted: list[str] = request["wanted"]
    python = sys.executable
    told = "\n".join([python, *sorted(wanted)])
    name = f"{request['version']}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    made = places.software / name
    fresh = not _is_whole(made, [places.wheels / each for each in wanted])
    if fresh:
        _make(places, made, wanted, tell)
    _point(places.current, name)
    _forget(places, name, set(wanted))
    return {"environment": str(made), "fresh": fresh}


def _receive(folder: Path, wheel: dict[str, Any], body: IO[bytes]) -> None:
    """One wheel from the stream. Raises OSError where the disk is full or the stream ends."""
    draft = folder / f".{wheel['name']}.{os.getpid()}"
    told, left = hashlib.sha256(), int(wheel["size"])
    with draft.open("wb") as file:
        while left:
            piece = body.read(min(PIECE, left))
            if not piece:
                draft.unlink()
                raise OSError("the connection ended")
            file.write(piece)
            told.update(piece)
            left -= len(piece)
    if told.hexdigest() != wheel["sha256"]:
        draft.unlink()
        raise OSError(f"{wheel['name']} was changed on its way")
    draft.replace(folder / wheel["name"])


def _is_whole(made: Path, wheels: list[Path]) -> bool:
    """Whether every file is there, with its length."""
    if not (made / "bin" / "dstack-runner").exists():
        return False
    [site] = made.glob("lib/*/site-packages")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            for entry in opened.infolist():
                try:
                    size = os.stat(f"{site}/{entry.filename}").st_size  # noqa: PTH116
                except OSError:
                    return False
                if size != entry.file_size:
                    return False
    return True


def _make(places: Places, made: Path, wanted: list[str], tell: Callable[[str], None]) -> None:
    # Its commands name the interpreter by its last path, so it may be moved there.
    draft = places.software / f".new-{os.getpid()}"
    site = _empty_environment(draft)
    for number, name in enumerate(sorted(wanted), 1):
        tell(f"{number}/{len(wanted)}")
        _unpack(places.wheels / name, site)
    for file in site.glob("*.dist-info/entry_points.txt"):
        _make_commands(file, draft / "bin", made / "bin" / "python")
    shutil.rmtree(made, ignore_errors=True)
    draft.rename(made)


def _empty_environment(folder: Path) -> Path:
    """A virtual environment (PEP 405) without pip, which Debian has in a package of its own;
    returns where its packages go."""
    base = Path(os.path.realpath(sys.executable))
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(base)
    version = ".".join(map(str, sys.version_info[:3]))
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    return site


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        for entry in opened.infolist():
            target = Path(opened.extract(entry, site))
            if (entry.external_attr >> 16) & 0o100 and target.is_file():
                target.chmod(0o700)


def _make_commands(file: Path, folder: Path, python: Path) -> None:
    points = ConfigParser(delimiters=("=",))
    points.optionxform = str  # type: ignore[assignment, method-assign]
    points.read_string(file.read_text())
    if not points.has_section("console_scripts"):
        return
    for name, target in points.items("console_scripts"):
        module, _, function = target.partition(":")
        command = folder / name
        command.write_text(COMMAND.format(python=python, module=module, function=function))
        command.chmod(0o700)


def _point(link: Path, name: str) -> None:
    draft = link.with_name(f".{link.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(name)
    draft.replace(link)


def _forget(places: Places, current: str, wanted: set[str]) -> None:
    """Removes environments that are older than the last few, and wheels that none of ours needs."""
    environments = [
        path
        for path in places.software.iterdir()
        if (path / "pyvenv.cfg").exists() and not path.is_symlink() and path.name != current
    ]
    environments.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in environments[KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
    for wheel in places.wheels.iterdir():
        if wheel.name not in wanted and not wheel.name.startswith("."):
            wheel.unlink(missing_ok=True)


def _sweep(software: Path) -> None:
    """Removes what an installation left behind that was cut."""
    for path in software.glob(".new-*"):
        if not Path("/proc", path.name.rpartition("-")[2]).exists():
            shutil.rmtree(path, ignore_errors=True)
    for path in (software / "wheels").glob(".*"):
        if not Path("/proc", path.name.rpartition(".")[2]).exists():
            path.unlink(missing_ok=True)
