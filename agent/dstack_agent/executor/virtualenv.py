"""A virtual environment of a job's own, so that what a job installs is the job's and nobody else's.

Written by hand (PEP 405 asks for one file and one link): `python -m venv` would cost each job
seconds. What the agent's own environment has is visible in it, behind what the job installs.
"""

import os
import sys
import sysconfig
from pathlib import Path

from dstack_agent.executor.pythons import Interpreter

_PIP = '#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n'


def make_virtual_environment(python: Interpreter, root: Path) -> None:
    """Makes an environment of this interpreter; one that is there already is kept."""
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
    shared = _packages_of_agent() if str(python.path) == sys.executable else ()
    lines = (f"import site; site.addsitedir({str(path)!r})\n" for path in shared)
    (packages / "_agent.pth").write_text("".join(lines))
    # Last, because it says that the rest is there.
    config = (
        f"home = {executable.parent}\ninclude-system-site-packages = {str(not shared).lower()}\n"
    )
    (root / "pyvenv.cfg").write_text(config)


def _packages_of_agent() -> tuple[str, ...]:
    """Where the agent's packages are if it lives in a virtual environment itself."""
    if sys.prefix == sys.base_prefix:
        return ()
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(os.path.realpath(paths[kind]) for kind in ("purelib", "platlib")))
