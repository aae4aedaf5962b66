"""A virtual environment of a job's own, so that what a job installs is the job's and nobody else's.

Written by hand (PEP 405 asks for one file and one link): `python -m venv` would cost each job
seconds. What it lies on is visible in it, behind what the job installs: a kept environment with
what the job asked for, and then the packages of the agent's own, if the Python is the agent's.

Of a kept environment the packages are looked up where they are; its scripts are written anew for
the job's Python, so that they find what the job adds; other files (share/, etc/) are linked.
"""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from dstack_agent.executor.pythons import Interpreter

LAYER = "dstack-layer"
"""Says in `pyvenv.cfg` on which kept environment this one lies."""

_PIP = '#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n'
_OURS = re.compile(r"(python|pip)[\d.]*|activate.*|Activate\.ps1")
_LONGEST_SCRIPT = 1 << 20


def make_virtual_environment(
    python: Interpreter, root: Path, layer: Path | None = None, alone: bool = False
) -> None:
    """Makes an environment of this interpreter; one that is there already is kept.

    Args:
        layer: A kept environment to lie on: a virtual one for this Python, or one of conda's with a
            Python of its own, which then is `python`.
        alone: Nothing but the standard library is visible in it.
    """
    if (root / "pyvenv.cfg").exists():
        return
    executable = python.path.resolve()
    name = f"python{'.'.join(python.version.split('.')[:2])}"
    packages = root / "lib" / name / "site-packages"
    binaries = root / "bin"
    for folder in (binaries, packages):
        folder.mkdir(parents=True, exist_ok=True)
    for link in ("python", "python3", name):
        (binaries / link).unlink(missing_ok=True)
        (binaries / link).symlink_to(executable)
    for script in ("pip", "pip3"):
        (binaries / script).write_text(_PIP)
        (binaries / script).chmod(0o755)
    agents = not alone and str(python.path) == sys.executable
    shared = [str(layer / "lib" / name / "site-packages")] if layer and not is_conda(layer) else []
    shared += _packages_of_agent() if agents else ()
    lines = (f"import site; site.addsitedir({path!r})\n" for path in shared)
    (packages / "_dstack.pth").write_text("".join(lines))
    if layer and not is_conda(layer):
        _bring_scripts(layer, root)
        _link_the_rest(layer, root)
    # Last, because it says that the rest is there.
    system = not alone and not (agents and _packages_of_agent())
    lies = f"{LAYER} = {layer}\n" if layer else ""
    config = f"home = {executable.parent}\ninclude-system-site-packages = {str(system).lower()}\n"
    (root / "pyvenv.cfg").write_text(config + lies)


def layer_of(root: Path) -> Path | None:
    """The kept environment that a virtual one lies on; None if there is none."""
    try:
        text = (root / "pyvenv.cfg").read_text()
    except OSError:
        return None
    found = re.search(rf"^{LAYER} = (.+)$", text, re.MULTILINE)
    return Path(found[1]) if found else None


def is_conda(environment: Path) -> bool:
    """Whether conda made an environment."""
    return (environment / "conda-meta").is_dir()


def _bring_scripts(layer: Path, root: Path) -> None:
    """Scripts of a kept environment, for the Python of this one; programs are linked."""
    for path in (layer / "bin").iterdir():
        target = root / "bin" / path.name
        if _OURS.fullmatch(path.name) or target.exists():
            continue
        content = path.read_bytes() if path.stat().st_size <= _LONGEST_SCRIPT else b""
        there, here = (os.fsencode(each / "bin" / "python") for each in (layer, root))
        if content.startswith(b"#!") and there in content:
            target.write_bytes(content.replace(there, here))
            target.chmod(0o755)
        else:
            target.symlink_to(path)


def _link_the_rest(layer: Path, root: Path) -> None:
    for path in layer.iterdir():
        if path.name in ("bin", "lib", "lib64", "pyvenv.cfg"):
            continue
        if path.is_dir():
            shutil.copytree(path, root / path.name, symlinks=True, copy_function=_link)
            _make_writable(root / path.name)
        else:
            _link(str(path), str(root / path.name))


def _link(source: str, target: str) -> None:
    """A second name for a file; a copy where there can be none."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _make_writable(folder: Path) -> None:
    """Folders of the job's own; the files in them stay as protected as they were."""
    for root, _, _ in os.walk(folder):
        Path(root).chmod(0o755)


def _packages_of_agent() -> tuple[str, ...]:
    """Where the agent's packages are if it lives in a virtual environment itself."""
    if sys.prefix == sys.base_prefix:
        return ()
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(os.path.realpath(paths[kind]) for kind in ("purelib", "platlib")))
