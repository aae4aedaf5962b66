"""A virtual environment of a job's own, so that what a job installs is the job's and nobody else's.

Written by hand (PEP 405 asks for one file and one link): `python -m venv` would cost each job
seconds. What it lies on is visible in it, behind what the job installs: a kept environment with
what the job asked for, and then the packages of the agent's own, if the Python is the agent's.

Of a kept environment the packages are looked up where they are; its scripts are written anew for
the job's Python, so that they find what the job adds; other files (share/, etc/) are linked.
"""

import os
import posixpath
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from dstack_agent.executor.foreign import entries_below, read_regular, remove_tree
from dstack_agent.executor.pythons import Interpreter

_PIP = '#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n'
_OURS = re.compile(r"(python|pip)[\d.]*|activate.*|Activate\.ps1")
_LONGEST_SCRIPT = 1 << 20
_LONGEST_PATH = 1 << 12
_APART = frozenset({"bin", "lib", "lib64", "pyvenv.cfg"})


def make_virtual_environment(
    python: Interpreter, root: Path, layer: Path | None = None, alone: bool = False
) -> None:
    """Makes an environment of this interpreter; one that is there already is kept.

    Args:
        layer: A kept environment to lie on: a virtual one for this Python, or one of conda's with a
            Python of its own, which then is `python`.
        alone: Nothing but the standard library is visible in it.
    """
    if (root / "pyvenv.cfg").is_file():
        return
    # A link that an installer left in a half of one would lead what is written out of it.
    if trouble := remove_tree(root):
        raise trouble
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
    _layer_file(root).unlink(missing_ok=True)
    if layer:
        _layer_file(root).write_bytes(os.fsencode(layer))
    config = f"home = {executable.parent}\ninclude-system-site-packages = {str(system).lower()}\n"
    (root / "pyvenv.cfg").write_text(config)


def layer_of(root: Path) -> Path | None:
    """The kept environment that a virtual one lies on; None if there is none.

    Told beside the environment, where an installer with walls cannot write: a job may read it all.
    """
    said = read_regular(_layer_file(root), _LONGEST_PATH) if os.path.lexists(root) else None
    return Path(os.fsdecode(said)) if said else None


def _layer_file(root: Path) -> Path:
    return root.with_name(f"{root.name}.layer")


def is_conda(environment: Path) -> bool:
    """Whether conda made an environment."""
    return (environment / "conda-meta").is_dir()


def _bring_scripts(layer: Path, root: Path) -> None:
    """Scripts of a kept environment, for the Python of this one; programs are linked."""
    there, here = (os.fsencode(each / "bin" / "python") for each in (layer, root))
    for name, entry in entries_below(layer / "bin"):
        target = root / "bin" / name
        if "/" in name or _OURS.fullmatch(name) or os.path.lexists(target):
            continue
        content = read_regular(layer / "bin" / name, _LONGEST_SCRIPT) or b""
        if content.startswith(b"#!") and there in content:
            target.write_bytes(content.replace(there, here))
            target.chmod(0o755)
        elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
            target.symlink_to(entry.path)


def _link_the_rest(layer: Path, root: Path) -> None:
    """Second names for files; the folders are the job's own, the files as protected as before."""
    for path, entry in entries_below(layer, leave_out=_APART):
        target = root / path
        if entry.is_symlink():
            leads = os.readlink(entry.path)  # noqa: PTH115 (as it is said there)
            if _stays_inside(path, leads):
                target.symlink_to(leads)
        elif entry.is_dir(follow_symlinks=False):
            target.mkdir(0o755)
        elif entry.is_file(follow_symlinks=False):
            _link(entry.path, str(target))


def _stays_inside(path: str, leads: str) -> bool:
    """Whether a link at a path of an environment leads to another one of it."""
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), leads))
    return not end.startswith(("/", ".."))


def _link(source: str, target: str) -> None:
    """A second name for a file; a copy where there can be none."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _packages_of_agent() -> tuple[str, ...]:
    """Where the agent's packages are if it lives in a virtual environment itself."""
    if sys.prefix == sys.base_prefix:
        return ()
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(os.path.realpath(paths[kind]) for kind in ("purelib", "platlib")))
