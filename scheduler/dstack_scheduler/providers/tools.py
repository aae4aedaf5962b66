"""Tools that providers bring: installed into the job's environment unless they are there."""

import shlex

_IS_THERE = "import importlib.metadata as m; m.version({name!r})"


def installed(package: str, version: str = "", extras: str = "") -> str:
    """A command after which a package is there, in the version that was asked for, or any.

    What is there already is taken without a look at the network: a lab's may be closed.

    Args:
        extras: What of it is optional and wanted, as "[standard]".
    """
    wanted = shlex.quote(f"{package}{extras}" + (f"=={version}" if version else ""))
    install = f"python -m pip install -q --disable-pip-version-check {wanted}"
    if version:
        return install
    check = f"python -c {shlex.quote(_IS_THERE.format(name=package))} 2>/dev/null"
    return f"{check} || {install}"
